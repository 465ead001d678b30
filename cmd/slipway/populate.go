package main

import "C" // populate.c, which runs before Go does
