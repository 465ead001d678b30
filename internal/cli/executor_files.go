package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/outbound"
)

// report writes the files that tell scripts what was built.
func (o *executorFlags) report(ctx context.Context, d digest.Digest) error {
	var names, tagged, pushed bytes.Buffer
	for _, dest := range o.destinations {
		ref, err := destination(dest)
		if err != nil {
			return err
		}
		name := kanikoName(ref)
		fmt.Fprintf(&names, "%s@%s\n", name, d)
		fmt.Fprintf(&tagged, "%s:%s@%s\n", name, ref.Tag(), d)
		line, err := json.Marshal(struct {
			Name   string `json:"name"`
			Digest string `json:"digest"`
		}{name + ":" + ref.Tag(), d.String()})
		if err != nil {
			return err
		}
		pushed.Write(append(line, '\n'))
	}
	for _, f := range []struct {
		flag, path string
		data       []byte
	}{
		{"digest-file", o.digestFile, []byte(d)}, // without an end of line
		{"image-name-with-digest-file", o.nameFile, names.Bytes()},
		{"image-name-tag-with-digest-file", o.nameTagFile, tagged.Bytes()},
	} {
		if f.path == "" {
			continue
		}
		if err := writeReport(ctx, f.path, f.data); err != nil {
			return fmt.Errorf("writing --%s: %w", f.flag, err)
		}
	}
	if dir := os.Getenv("BUILDER_OUTPUT"); dir != "" && !o.noPush { // of Google Cloud Build
		if err := os.WriteFile(filepath.Join(dir, "images"), pushed.Bytes(), 0o644); err != nil {
			return fmt.Errorf("writing BUILDER_OUTPUT: %w", err)
		}
	}
	return nil
}

// kanikoName is the name of a repository in kaniko's words, which are go-containerregistry's.
func kanikoName(ref reference.Named) string {
	if reference.Domain(ref) == hubHost {
		return "index.docker.io/" + reference.Path(ref)
	}
	return ref.Name()
}

// writeReport writes a file, or sends it where a URL says, such as a presigned one of a bucket.
func writeReport(ctx context.Context, path string, data []byte) error {
	if !strings.HasPrefix(path, "https://") {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o644)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain")
	client := outbound.NewClient(nil)
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	return nil
}
