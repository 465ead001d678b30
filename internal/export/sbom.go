package export

import (
	"context"
	"encoding/json"
	"io/fs"
	"path"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// supplement writes into an SBOM of the format SPDX in which layer of the image each of its files is, as BuildKit does. What is no such
// document, or has a comment of its own about a file, stays as it is.
func supplement(ctx context.Context, s *store.Store, img Image, sbom json.RawMessage) (json.RawMessage, error) {
	var doc map[string]json.RawMessage
	var known struct {
		Version string `json:"spdxVersion"`
		Files   []map[string]json.RawMessage
		Info    map[string]json.RawMessage `json:"creationInfo"`
	}
	if json.Unmarshal(sbom, &doc) != nil || json.Unmarshal(sbom, &known) != nil || !strings.HasPrefix(known.Version, "SPDX-2.") {
		return sbom, nil
	}
	wanted := map[string][]map[string]json.RawMessage{} // by the path in a tree
	for _, f := range known.Files {
		var file struct{ FileName, Comment string }
		for key, into := range map[string]*string{"fileName": &file.FileName, "comment": &file.Comment} {
			if f[key] != nil && json.Unmarshal(f[key], into) != nil {
				return sbom, nil
			}
		}
		if f != nil && file.Comment == "" && file.FileName != "" {
			name := layer.Clean(path.Join("/", file.FileName))
			wanted[name] = append(wanted[name], f)
		}
	}
	if err := findLayers(ctx, s, img, wanted); err != nil {
		return nil, err
	}
	var creators []string
	if known.Info["creators"] != nil && json.Unmarshal(known.Info["creators"], &creators) != nil {
		return sbom, nil
	}
	if known.Info == nil {
		known.Info = map[string]json.RawMessage{}
	}
	var err error
	if known.Info["creators"], err = json.Marshal(append(creators, "Tool: slipway")); err != nil {
		return nil, err
	}
	if doc["creationInfo"], err = json.Marshal(known.Info); err != nil {
		return nil, err
	}
	if known.Files != nil {
		if doc["files"], err = json.Marshal(known.Files); err != nil {
			return nil, err
		}
	}
	return json.Marshal(doc)
}

// findLayers comments on the files of an SBOM: each is in the last layer that has it. They are no longer wanted then.
func findLayers(ctx context.Context, s *store.Store, img Image, wanted map[string][]map[string]json.RawMessage) error {
	for i := len(img.Snapshot) - 1; i >= 0 && len(wanted) > 0; i-- {
		tree, err := s.LayerTree(ctx, img.Snapshot[i])
		if err != nil {
			return err
		}
		comment, err := json.Marshal("layerID: " + img.Layers[i].Digest.String())
		if err != nil {
			return err
		}
		err = layer.Walk(tree, ".", func(e *layer.Entry) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !e.IsRegular() && !e.IsSymlink() && !e.IsDir() {
				return nil // a whiteout, or nothing that an SBOM is of
			}
			for _, f := range wanted[e.Path] {
				f["comment"] = comment
			}
			if delete(wanted, e.Path); len(wanted) == 0 {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
