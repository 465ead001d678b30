package cli_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/internal/cache/bucket/buckettest"
)

// s3Bucket is the command `bucket`, an S3 server with the bucket "b" that belongs to one script. Its address is
// in $S3, with the options of a cache there in $S3CACHE; its keys are in the environment.
//
//	bucket start
//	bucket delete PREFIX   objects whose keys begin so are gone
//	bucket break N         the next N reads end in the middle
//	bucket stop
//	bucket asked RE        it was asked for "METHOD /b/key" since the last time; `!`: it was not
//	bucket quiet DIR       no secret is in a file of DIR, or in the last output, and no signature was wrong
func s3Bucket(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 1 && args[0] == "start" {
		s, err := buckettest.New("b")
		ts.Check(err)
		ts.Defer(s.Close)
		ts.Setenv("S3", s.URL)
		ts.Setenv("S3CACHE", "type=s3,bucket=b,region=eu-central-1,endpoint_url="+s.URL)
		ts.Setenv("AWS_ACCESS_KEY_ID", buckettest.ID)
		ts.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
		ts.Setenv("AWS_EC2_METADATA_DISABLED", "true")
		scriptBuckets.Store(s.URL, s)
		return
	}
	v, ok := scriptBuckets.Load(ts.Getenv("S3"))
	if !ok || len(args) == 0 {
		ts.Fatalf("usage: bucket start|delete|break|stop|asked|quiet")
	}
	s := v.(*buckettest.Server)
	switch {
	case args[0] == "delete" && len(args) == 2:
		for _, key := range s.Keys("b", args[1]) {
			s.Delete("b", key)
		}
	case args[0] == "break" && len(args) == 2:
		s.Break = len(args[1])
	case args[0] == "stop":
		s.Close()
	case args[0] == "asked" && len(args) == 2:
		wasAsked(ts, neg, s.Asked(), args[1])
	case args[0] == "quiet" && len(args) == 2:
		isQuiet(ts, args[1], buckettest.Secret, buckettest.Session)
		if p := s.Problems(); len(p) > 0 {
			ts.Fatalf("%q", p)
		}
	default:
		ts.Fatalf("bucket %q: unknown", args)
	}
}

// scriptBuckets are the servers of all scripts by their URL.
var scriptBuckets sync.Map

// wasAsked compares what a server was asked with an expression, which some of it has to match, or none.
func wasAsked(ts *testscript.TestScript, neg bool, all []string, re string) {
	if slices.ContainsFunc(all, regexp.MustCompile(re).MatchString) == neg {
		ts.Fatalf("want %v, it was asked %q", !neg, all)
	}
}

// isQuiet looks for secrets in the files of a directory, and in the last output.
func isQuiet(ts *testscript.TestScript, dir string, secrets ...string) {
	ts.Check(without(ts.MkAbs(dir), secrets...))
	for _, text := range []string{ts.ReadFile("stdout"), ts.ReadFile("stderr")} {
		if slices.ContainsFunc(secrets, func(s string) bool { return strings.Contains(text, s) }) {
			ts.Fatalf("a secret was printed")
		}
	}
}

// without looks for secrets in the files of a directory.
func without(dir string, secrets ...string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && slices.ContainsFunc(secrets, func(s string) bool { return bytes.Contains(data, []byte(s)) }) {
			err = &fs.PathError{Op: "secret in", Path: path, Err: fs.ErrInvalid}
		}
		return err
	})
}
