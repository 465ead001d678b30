package cli_test

import (
	"archive/tar"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// daemon is the command `daemon SOCKET DIR`, which stands for a Docker daemon: it listens on
// SOCKET and keeps what `docker load` gives it in DIR/archive.tar. `daemon SOCKET !MESSAGE` answers
// with an error before it has read everything.
func daemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: daemon SOCKET DIR|!MESSAGE")
	}
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	load := func(w http.ResponseWriter, r *http.Request) {
		switch _, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/"); {
		case path == "_ping":
			w.Header().Set("Api-Version", "1.51")
			return
		case r.Method != http.MethodPost || path != "images/load" && r.URL.Path != "/images/load":
			http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
			return
		}
		if msg, ok := strings.CutPrefix(args[1], "!"); ok {
			fmt.Fprintf(w, "{\"errorDetail\":{\"message\":%q},\"error\":%q}\n", msg, msg)
			return
		}
		if err := keepArchive(r.Body, ts.MkAbs(args[1])); err != nil {
			fmt.Fprintf(w, "{\"error\":%q}\n", err.Error())
			return
		}
		fmt.Fprintln(w, `{"stream":"Loaded image: it\n"}`)
	}
	srv := &http.Server{Handler: http.HandlerFunc(load)}
	go srv.Serve(l) //nolint:errcheck // it ends with the script
	ts.Defer(func() { srv.Close() })
}

// keepArchive writes a tar stream to dir/archive.tar if it is whole.
func keepArchive(r io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(dir + "/archive.tar")
	if err != nil {
		return err
	}
	defer f.Close()
	tr := tar.NewReader(io.TeeReader(r, f))
	for {
		_, err := tr.Next()
		if err == io.EOF {
			_, err = io.Copy(f, r)
			return err
		}
		if err != nil {
			return err
		}
	}
}
