// Dist tells what is in slipway's binaries and packages, for hack/dist.sh.
//
//	dist [FLAGS] licences BINARY     the licences of everything that is linked, as a text
//	dist [FLAGS] sbom BINARY         its software bill of materials, as SPDX 2.3 in JSON
//	dist [FLAGS] provenance FILE...  a statement of in-toto with SLSA's provenance about the files
//	dist [FLAGS] apparmor PROGRAM    the AppArmor profile for a program at that path
//
// The same flags and files give the same bytes: no clock, machine or random number is asked.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/slipway-build/slipway/internal/isolation"
)

// dist is what the flags say.
type dist struct {
	version, commit, date string
	libraries             []library // of C, linked into the binary
	tools                 []string  // package URLs of what made it
}

// library is one of C, from a package of Debian's.
type library struct {
	name, version, licence string // an SPDX expression
	copyright              string // a file with the text
}

func main() {
	d := &dist{}
	flag.StringVar(&d.version, "version", "", "version by semver")
	flag.StringVar(&d.commit, "commit", "", "hash of the commit")
	flag.StringVar(&d.date, "date", "", "when it was committed (RFC 3339)")
	flag.Func("library", "NAME,VERSION,LICENCE,FILE of a library of C", func(s string) error {
		f := strings.Split(s, ",")
		if len(f) != 4 {
			return fmt.Errorf("want four fields, got %q", s)
		}
		d.libraries = append(d.libraries, library{f[0], f[1], f[2], f[3]})
		return nil
	})
	flag.Func("tool", "package URL of a tool or package that the binaries were made with", func(s string) error {
		d.tools = append(d.tools, s)
		return nil
	})
	flag.Parse()
	if err := d.run(os.Stdout, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

func (d *dist) run(w io.Writer, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: dist [FLAGS] licences|sbom|provenance|apparmor FILE...")
	}
	switch args[0] {
	case "licences":
		return d.licences(w, args[1])
	case "sbom":
		doc, err := d.sbom(args[1])
		return write(w, doc, err)
	case "provenance":
		statement, err := d.provenance(args[1:])
		return write(w, statement, err)
	case "apparmor":
		_, err := io.WriteString(w, isolation.AppArmorProfile(args[1]))
		return err
	}
	return fmt.Errorf("unknown command %s", args[0])
}

// write writes a document as JSON, unless there was an error.
func write(w io.Writer, doc any, err error) error {
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}
