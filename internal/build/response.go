package build

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/slipway-build/slipway/internal/export"
)

// response is what BuildKit's exporters say of an image.
func response(a *export.Assembly, names []string) (map[string]string, error) {
	desc, err := json.Marshal(a.Target)
	if err != nil {
		return nil, fmt.Errorf("describing the image: %w", err)
	}
	all := map[string]string{
		exptypes.ExporterImageDigestKey:     a.Target.Digest.String(),
		exptypes.ExporterImageDescriptorKey: base64.StdEncoding.EncodeToString(desc),
	}
	if !a.IsIndex() {
		all[exptypes.ExporterImageConfigDigestKey] = a.Images[0].Config.Digest.String()
	}
	if len(names) > 0 {
		all["image.name"] = strings.Join(names, ",")
	}
	return all, nil
}

// respond adds to what a client is answered. Of several outputs what the last one says counts, as with BuildKit.
func (r *Result) respond(all map[string]string) {
	if r.Response == nil {
		r.Response = map[string]string{}
	}
	maps.Copy(r.Response, all)
}
