// Record runs commands in a terminal and writes what it showed as an SVG, in which they come one after the other.
//
//	record [-columns N] [-o FILE] SCRIPT
//
// Each line of the script is a command of sh; one that begins with "#" is shown as it is, and one that begins with "@" is run and
// not shown. The picture has the times that the commands told; all else in it is the same for the same output.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/console"
)

func main() {
	columns := flag.Int("columns", 100, "width of the terminal")
	file := flag.String("o", "", "file to write")
	flag.Parse()
	if err := run(flag.Arg(0), *file, *columns); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(script, file string, columns int) error {
	data, err := os.ReadFile(script)
	if err != nil {
		return err
	}
	var all []entry
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		hidden, isHidden := strings.CutPrefix(line, "@")
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "#"):
			all = append(all, entry{command: line})
			continue
		case isHidden:
			line = strings.TrimSpace(hidden)
		}
		s, err := perform(line, columns)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", line, err, s.text())
		}
		if !isHidden {
			all = append(all, entry{line, s.lines()})
		}
	}
	return os.WriteFile(file, draw(all, columns), 0o644)
}

// entry is a command with what it showed.
type entry struct {
	command string
	output  [][]cell
}

// patience is how long a command may take.
const patience = 5 * time.Minute

// perform runs a command of sh in a terminal of its own, and returns what is on it at the end.
func perform(command string, columns int) (*screen, error) {
	s := &screen{columns: columns}
	master, path, err := console.NewPty()
	if err != nil {
		return s, err
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Width: uint16(columns), Height: 50}); err != nil {
		return s, err
	}
	slave, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return s, err
	}
	defer slave.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return s, err
	}
	if err := slave.Close(); err != nil {
		return s, err
	}
	_, copied := io.Copy(s, master)
	err = cmd.Wait()
	// A terminal that no process has open any more ends with EIO.
	if err == nil && copied != nil && !strings.Contains(copied.Error(), syscall.EIO.Error()) {
		err = copied
	}
	return s, err
}
