package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// reach is what some roots need: layers, and blobs.
type reach struct {
	s      *Store
	layers map[layer.ID]bool
	blobs  map[digest.Digest]bool
	others others                           // processes that are roots too
	parts  map[digest.Digest]*manifestParts // what was read of manifests and indexes, which never changes
}

func (s *Store) newReach() *reach {
	return &reach{s: s, layers: map[layer.ID]bool{}, blobs: map[digest.Digest]bool{}, parts: map[digest.Digest]*manifestParts{}}
}

// again is an empty reach that need not read the manifests that r has read.
func (r *reach) again() *reach {
	n := r.s.newReach()
	n.parts = r.parts
	return n
}

func (r *reach) hasLayer(id layer.ID) bool    { return r.layers[id] || r.others.useLayer(id) }
func (r *reach) hasBlob(d digest.Digest) bool { return r.blobs[d] || r.others.useBlob(d) }

func (r *reach) addSnapshot(snap layer.Snapshot) {
	for _, id := range snap {
		r.layers[id] = true
	}
}

// addImage adds all that an image consists of, of every platform.
func (r *reach) addImage(ctx context.Context, img Image) error {
	r.addSnapshot(img.Layers)
	r.blobs[img.ID] = true
	return errors.Join(r.addTree(ctx, img.Target().Digest), r.addTree(ctx, img.Manifest.Digest))
}

// maxManifest is how long a manifest may be that is looked into.
const maxManifest = 8 << 20

// manifestParts are what a manifest or an index names.
type manifestParts struct{ manifests, blobs []digest.Digest }

// addTree adds a manifest or an index with everything that it names. What is not here, or is damaged, names
// nothing.
func (r *reach) addTree(ctx context.Context, d digest.Digest) error {
	if r.blobs[d] {
		return nil
	}
	r.blobs[d] = true
	p := r.parts[d]
	if p == nil {
		var err error
		if p, err = r.s.readParts(d); err != nil || p == nil {
			return err
		}
		r.parts[d] = p
	}
	for _, blob := range p.blobs {
		r.blobs[blob] = true
	}
	for _, m := range p.manifests {
		if err := r.addTree(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// readParts reads what a manifest or an index names. It is nil for a blob that is neither, is damaged or is not
// here. Nothing is made of a damaged one but that, as this may be within a transaction.
func (s *Store) readParts(d digest.Digest) (*manifestParts, error) {
	if d.Validate() != nil {
		return nil, nil
	}
	f, err := OpenRegular(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	var m struct {
		Manifests, Layers []ocispec.Descriptor
		Config            ocispec.Descriptor
	}
	if len(data) > maxManifest || d.Algorithm().FromBytes(data) != d || json.Unmarshal(data, &m) != nil {
		return nil, nil
	}
	p := &manifestParts{}
	for _, l := range append(m.Layers, m.Config) {
		p.blobs = append(p.blobs, l.Digest)
	}
	for _, child := range m.Manifests {
		p.manifests = append(p.manifests, child.Digest)
	}
	return p, nil
}

// addNamed adds what records of users need: images, containers, and the images that references were
// resolved to.
func (r *reach) addNamed(ctx context.Context) error {
	images, err := r.s.Images(ctx)
	if err != nil {
		return err
	}
	for _, img := range images {
		if err := r.addImage(ctx, img); err != nil {
			return err
		}
	}
	containers, err := r.s.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		r.addSnapshot(c.layers())
		r.blobs[c.ImageID] = true
	}
	return r.addRefs(ctx)
}

// addRefs adds the images that references were resolved to, which builds use without asking again.
func (r *reach) addRefs(ctx context.Context) error {
	rows, err := r.s.db.QueryContext(ctx, "SELECT ref,digest FROM refs")
	if err != nil {
		return fmt.Errorf("reading references: %w", err)
	}
	defer rows.Close()
	var all []digest.Digest
	for rows.Next() {
		var ref, d string
		if err := rows.Scan(&ref, &d); err != nil {
			return fmt.Errorf("reading references: %w", err)
		}
		all = append(all, digest.Digest(d))
		if named, err := reference.ParseNormalizedNamed(ref); err == nil {
			if pinned, ok := named.(reference.Digested); ok {
				all = append(all, pinned.Digest())
			}
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading references: %w", err)
	}
	for _, d := range all {
		if err := r.addTree(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// addResults adds the layers of all results.
func (r *reach) addResults(ctx context.Context) error {
	results, err := r.s.allResults(ctx)
	if err != nil {
		return err
	}
	for _, res := range results {
		for _, snap := range res.Outputs {
			r.addSnapshot(snap)
		}
	}
	return nil
}

// digests and layers as memos may name them.
var (
	digestIn = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\bsha256:[0-9a-f]{64}\b`) })
	layerIn  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\b[0-9a-f]{12}-[0-9]+\b`) })
)

// addMemos adds what memos name: a download, or the form of a layer that was made of another one.
func (r *reach) addMemos(ctx context.Context) error {
	memos, err := r.s.memos(ctx)
	if err != nil {
		return err
	}
	for _, value := range memos {
		for _, d := range digestIn().FindAllString(value, -1) {
			r.blobs[digest.Digest(d)] = true
		}
		for _, id := range layerIn().FindAllString(value, -1) {
			r.layers[layer.ID(id)] = true
		}
	}
	return nil
}

// form says that a blob is a form of a layer.
type form struct {
	id   layer.ID
	blob digest.Digest
}

// layerForms are the forms of all layers that are blobs.
func (s *Store) layerForms(ctx context.Context) ([]form, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id, blob FROM layers WHERE blob!=''"+
		" UNION SELECT l.id, b.digest FROM layers l JOIN layer_blobs b ON b.diff_id=l.diff_id WHERE NOT l.claimed")
	if err != nil {
		return nil, fmt.Errorf("reading layers: %w", err)
	}
	defer rows.Close()
	var forms []form
	for rows.Next() {
		var f form
		if err := rows.Scan(&f.id, &f.blob); err != nil {
			return nil, fmt.Errorf("reading layers: %w", err)
		}
		forms = append(forms, f)
	}
	return forms, rows.Err()
}

// close adds the layers that the blobs are forms of, and all blobs that the layers are held as.
func (r *reach) close(ctx context.Context) error {
	forms, err := r.s.layerForms(ctx)
	if err != nil {
		return err
	}
	r.closeOver(forms)
	return nil
}

func (r *reach) closeOver(forms []form) {
	for _, f := range forms {
		if r.hasBlob(f.blob) {
			r.layers[f.id] = true
		}
	}
	for _, f := range forms {
		if r.hasLayer(f.id) {
			r.blobs[f.blob] = true
		}
	}
}

// allResults returns all results by their keys. Damaged records are left out.
func (s *Store) allResults(ctx context.Context) (map[string]Result, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT key,record FROM results")
	if err != nil {
		return nil, fmt.Errorf("reading results: %w", err)
	}
	defer rows.Close()
	all := map[string]Result{}
	for rows.Next() {
		var key string
		var record []byte
		var r Result
		if err := rows.Scan(&key, &record); err != nil {
			return nil, fmt.Errorf("reading results: %w", err)
		}
		if json.Unmarshal(record, &r) == nil {
			all[key] = r
		}
	}
	return all, rows.Err()
}

// memos returns all memos by their keys.
func (s *Store) memos(ctx context.Context) (map[string]string, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT key,value FROM memo")
	if err != nil {
		return nil, fmt.Errorf("reading memos: %w", err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, fmt.Errorf("reading memos: %w", err)
		}
		all[key] = value
	}
	return all, rows.Err()
}
