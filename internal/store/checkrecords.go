package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// records looks at records and at what is there, twice: what is seen once was on its way.
func (c *checker) records(ctx context.Context) ([]Finding, error) {
	first, err := c.lookOnce(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	second, err := c.lookOnce(ctx)
	return slices.DeleteFunc(second, func(f Finding) bool { return !slices.ContainsFunc(first, f.same) }), err
}

func (f Finding) same(o Finding) bool {
	return f.Kind == o.Kind && f.Subject == o.Subject && f.Problem == o.Problem
}

// lookOnce reads what names something before what is named: what is new in between is not missed.
func (c *checker) lookOnce(ctx context.Context) ([]Finding, error) {
	l := &survey{checker: c}
	for _, step := range []func(context.Context) error{
		l.readNames, c.load, l.blobFiles, l.layerForms, l.layerBlobs, l.results, l.memos, l.refs, l.images, l.containers,
		l.index, l.orphans, l.leftovers, l.modes, l.caches, l.lists,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return l.found, nil
}

// survey is one look at records and at what is there.
type survey struct {
	*checker
	found []Finding

	named struct {
		results, memos map[string][]layer.ID // keys of those that name layers
		refs           map[[2]string]digest.Digest
		images         []Image
		containers     []Container
		damaged        []Finding // records that cannot be read
	}
	formless map[layer.ID]bool // layers of which nothing is here, nor known to be elsewhere
}

func (l *survey) find(f Finding) { l.found = append(l.found, f) }

// readNames reads the records that name layers and blobs.
func (l *survey) readNames(ctx context.Context) error {
	n := &l.named
	n.results, n.memos, n.refs = map[string][]layer.ID{}, map[string][]layer.ID{}, map[[2]string]digest.Digest{}
	l.report.Results, l.report.Memos = 0, 0
	return errors.Join(l.each(ctx, func(rows *sql.Rows) error {
		var key string
		var record []byte
		err := rows.Scan(&key, &record)
		l.report.Results++
		var r struct{ Outputs []layer.Snapshot }
		if json.Unmarshal(record, &r) != nil {
			n.damaged = append(n.damaged, l.gone("result", key, "its record is damaged", "the step runs again", "DELETE FROM results WHERE key=?", key))
			return err
		}
		if ids := slices.Concat(r.Outputs...); len(ids) > 0 {
			n.results[key] = ids
		}
		return err
	}, "SELECT key,record FROM results"), l.each(ctx, func(rows *sql.Rows) error {
		var key, value string
		err := rows.Scan(&key, &value)
		l.report.Memos++
		for _, id := range layerIn().FindAllString(value, -1) {
			n.memos[key] = append(n.memos[key], layer.ID(id))
		}
		return err
	}, "SELECT key,value FROM memo"), l.each(ctx, func(rows *sql.Rows) error {
		var ref, platform string
		var d digest.Digest
		err := rows.Scan(&ref, &platform, &d)
		n.refs[[2]string{ref, platform}] = d
		return err
	}, "SELECT ref,platform,digest FROM refs"), l.each(ctx, func(rows *sql.Rows) error {
		return scanNamed(rows, "image", &n.images, &n.damaged)
	}, "SELECT name,record FROM images ORDER BY name"), l.each(ctx, func(rows *sql.Rows) error {
		return scanNamed(rows, "container", &n.containers, &n.damaged)
	}, "SELECT name,record FROM containers ORDER BY name"))
}

// scanNamed reads a record of somebody's, which is kept whatever is wrong with it.
func scanNamed[T any](rows *sql.Rows, kind string, to *[]T, damaged *[]Finding) error {
	var name string
	var record []byte
	var v T
	err := rows.Scan(&name, &record)
	if jerr := json.Unmarshal(record, &v); jerr != nil {
		*damaged = append(*damaged, Finding{Kind: kind, Subject: name, Problem: "its record is damaged: " + jerr.Error(),
			Means: "neither it nor others of its kind can be listed", Repair: "none: what it was is not known any more"})
	} else {
		*to = append(*to, v)
	}
	return err
}

// gone is a finding that is mended by a statement.
func (c *checker) gone(kind, subject, problem, means, statement string, args ...any) Finding {
	return Finding{Kind: kind, Subject: subject, Problem: problem, Means: means, Repair: "forget it", mend: func(ctx context.Context) error {
		return c.s.update(ctx, func(tx *sql.Tx) error {
			_, err := tx.Exec(statement, args...)
			return err
		})
	}}
}

// blobFiles looks for the files of blobs.
func (l *survey) blobFiles(context.Context) error {
	l.found = append(l.found, l.named.damaged...)
	l.report.Images, l.report.Containers = len(l.named.images), len(l.named.containers)
	for d, size := range l.inv.blobs {
		if problem := l.s.blobFile(d, size); problem != "" {
			l.find(l.badBlob(d, problem))
		}
	}
	return nil
}

// blobFile tells what is wrong with the file of a blob, without reading it.
func (s *Store) blobFile(d digest.Digest, size int64) string {
	if err := d.Validate(); err != nil {
		return err.Error()
	}
	fi, err := os.Lstat(s.blobPath(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "its file is missing"
	case err != nil:
		return err.Error()
	case !fi.Mode().IsRegular():
		return "it is no regular file"
	case fi.Size() != size:
		return fmt.Sprintf("it has %d bytes, want %d", fi.Size(), size)
	}
	return ""
}

// here reports whether a blob is recorded and its file is there, and was not found to be damaged.
func (c *checker) here(d digest.Digest) bool {
	size, ok := c.inv.blobs[d]
	return ok && !c.isBad(d) && c.s.blobFile(d, size) == ""
}

func (c *checker) isBad(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad[d]
}

// badBlob is a finding about a blob that is mended by doing without it.
func (c *checker) badBlob(d digest.Digest, problem string) Finding {
	return Finding{Kind: "blob", Subject: d.String(), Problem: problem, Means: "nobody can use it",
		Repair: "drop it; it is packed again, or fetched when it is needed", mend: func(ctx context.Context) error { return c.mendBlob(ctx, d) }}
}

// layerForms looks for what layers are held as.
func (l *survey) layerForms(context.Context) error {
	l.formless = map[layer.ID]bool{}
	for id, info := range l.inv.layers {
		dir := info.Dir
		if dir {
			fi, err := os.Lstat(l.s.layerFS(id))
			if dir = err == nil && fi.IsDir(); !dir {
				l.find(Finding{Kind: "layer", Subject: string(id), Problem: "its directory is missing", Means: "a blob has to give it again",
					Repair: "use its blob, if there is one", mend: func(ctx context.Context) error { return l.noDir(ctx, id) }})
			}
		}
		if dir || info.Blob.Digest != "" || slices.ContainsFunc(l.inv.known(info), l.here) {
			continue
		}
		l.formless[id] = true
		if !info.Dir {
			l.find(Finding{Kind: "layer", Subject: string(id), Problem: "it has neither a directory nor a blob", Means: "what needs it cannot be used",
				Repair: "forget it", mend: func(ctx context.Context) error { return l.dropLayer(ctx, id) }})
		}
	}
	return nil
}

// noDir records that the directory of a layer is not here, unless it is by now.
func (c *checker) noDir(ctx context.Context, id layer.ID) error {
	return c.s.update(ctx, func(tx *sql.Tx) error { // in which directories are placed
		if _, err := os.Lstat(c.s.layerFS(id)); err == nil {
			return nil
		}
		_, err := tx.Exec("UPDATE layers SET dir=0 WHERE id=?", string(id))
		return err
	})
}

// layerBlobs looks for records of blobs, made here of layers, that are not there. That of the plain tar tells that the
// directory gives it again.
func (l *survey) layerBlobs(context.Context) error {
	dirs := map[digest.Digest]bool{} // of diffIDs
	for _, info := range l.inv.layers {
		dirs[info.DiffID] = dirs[info.DiffID] || info.Dir
	}
	for diff, blobs := range l.inv.made {
		for _, b := range blobs {
			if _, ok := l.inv.blobs[b.Digest]; !ok && (b.Digest != diff || !dirs[diff]) {
				l.find(l.gone("blob record", b.Digest.String(), "it was made of a layer, and is not here", "it is made again when it is needed",
					"DELETE FROM layer_blobs WHERE diff_id=? AND digest=?", diff.String(), b.Digest.String()))
			}
		}
	}
	return nil
}

// lacking is the first of layers that is not here, and why.
func (l *survey) lacking(ids []layer.ID) string {
	for _, id := range ids {
		if _, ok := l.inv.layers[id]; !ok {
			return fmt.Sprintf("its layer %s is not here", id)
		}
		if l.formless[id] {
			return fmt.Sprintf("nothing of its layer %s is here", id)
		}
	}
	return ""
}

func (l *survey) results(context.Context) error {
	for key, ids := range l.named.results {
		if problem := l.lacking(ids); problem != "" {
			l.find(l.gone("result", key, problem, "the step runs again", "DELETE FROM results WHERE key=?", key))
		}
	}
	return nil
}

func (l *survey) memos(context.Context) error {
	for key, ids := range l.named.memos {
		if problem := l.lacking(ids); problem != "" {
			l.find(l.gone("memo", key, problem, "it is found out again", "DELETE FROM memo WHERE key=?", key))
		}
	}
	return nil
}

func (l *survey) refs(context.Context) error {
	for ref, d := range l.named.refs {
		if _, ok := l.inv.blobs[d]; !ok {
			l.find(l.gone("reference", ref[0]+" "+ref[1], "its manifest "+d.String()+" is not here", "the registry is asked again",
				"DELETE FROM refs WHERE ref=? AND platform=?", ref[0], ref[1]))
		}
	}
	return nil
}

// images looks for what images consist of.
func (l *survey) images(context.Context) error {
	for _, img := range l.named.images {
		if problem := l.lacking(img.Layers); problem != "" {
			l.find(Finding{Kind: "image", Subject: img.Name, Problem: problem, Means: "it cannot be used",
				Repair: "none: build or pull it again", mend: nil})
		}
		trees := []digest.Digest{img.Target().Digest, img.Manifest.Digest}
		for i, d := range trees {
			if i > 0 && trees[0] == d {
				continue
			}
			if err := l.imageTree(img, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// imageTree looks for what a manifest or an index names. What an index names besides may never have been here.
func (l *survey) imageTree(img Image, d digest.Digest) error {
	if _, ok := l.inv.blobs[d]; !ok {
		l.incomplete(img, d)
		return nil
	}
	p, err := l.s.readParts(d)
	if err != nil || p == nil {
		return err // damaged, which is told of the blob
	}
	for _, blob := range p.blobs {
		if _, ok := l.inv.blobs[blob]; !ok && blob != "" {
			l.incomplete(img, blob)
		}
	}
	for _, m := range p.manifests {
		if _, ok := l.inv.blobs[m]; ok {
			if err := l.imageTree(img, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *survey) incomplete(img Image, d digest.Digest) {
	l.find(Finding{Kind: "image", Subject: img.Name, Problem: "its blob " + d.String() + " is not here", Means: "it cannot be saved or pushed, and perhaps not be run",
		Repair: "pack it again where its layer has a directory; otherwise pull or build the image again", mend: func(ctx context.Context) error {
			again, err := l.packBlob(ctx, d)
			if err == nil && !again {
				err = errors.New("it is kept: pull or build it again")
			}
			return err
		}})
}

func (l *survey) containers(context.Context) error {
	for _, ct := range l.named.containers {
		if problem := l.lacking(ct.layers()); problem != "" {
			l.find(Finding{Kind: "container", Subject: ct.Name, Problem: problem, Means: "it cannot be started", Repair: "none: its own files are kept"})
		}
		path := filepath.Join(l.s.ContainerDir(ct.ID), "fs")
		if fi, err := os.Lstat(path); err != nil || !fi.IsDir() {
			l.find(Finding{Kind: "container", Subject: ct.Name, Problem: "its directory fs is missing", Means: "it cannot be started",
				Repair: "make an empty one", mend: func(context.Context) error { return os.MkdirAll(path, 0o755) }})
		}
	}
	return nil
}

// index looks at index.json, which other tools read.
func (l *survey) index(context.Context) error {
	data, err := readRegular(filepath.Join(l.s.root, "index.json"))
	if errors.Is(err, fs.ErrNotExist) && len(l.named.images) == 0 {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading index.json: %w", err)
	}
	lines := func(index ocispec.Index) []string {
		var all []string
		for _, m := range index.Manifests {
			all = append(all, m.Digest.String()+" "+m.Annotations["io.containerd.image.name"])
		}
		slices.Sort(all)
		return all
	}
	var have ocispec.Index
	problem := ""
	switch err := json.Unmarshal(bytes.TrimSpace(data), &have); {
	case err != nil:
		problem = "it is damaged: " + err.Error()
	case !slices.Equal(lines(have), lines(indexOf(l.named.images))):
		problem = "it does not have the images that the records have"
	}
	if problem != "" {
		l.find(Finding{Kind: "index.json", Subject: "index.json", Problem: problem, Means: "other tools see other images", Repair: "write it again", mend: l.s.writeIndex})
	}
	return nil
}
