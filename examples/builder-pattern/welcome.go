// Command welcome says what built it: the smallest program that shows where a binary came from.
package main

import (
	"fmt"
	"runtime"
)

func main() {
	fmt.Printf("Welcome from %s, built in one container and shipped in another (%s/%s)\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
