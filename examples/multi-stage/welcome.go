// Command welcome greets those named on its command line, or everybody.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	who := "everybody"
	if len(os.Args) > 1 {
		who = strings.Join(os.Args[1:], " and ")
	}
	fmt.Printf("Welcome, %s, from %s in a multi-stage image\n", who, runtime.Version())
}
