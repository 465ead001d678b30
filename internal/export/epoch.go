package export

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// clampHistory sets the times of entries that are later than the epoch to it. The rule is that of
// BuildKit's image exporter: entries of the base image keep their times, as the layers do.
func clampHistory(entries []ocispec.History, base []byte, epoch time.Time) error {
	var from ocispec.Image
	if base != nil {
		if err := json.Unmarshal(base, &from); err != nil {
			return fmt.Errorf("reading the base image's config: %w", err)
		}
	}
	epoch = epoch.UTC()
	inherited := true
	for i, h := range entries {
		if inherited = inherited && i < len(from.History) && reflect.DeepEqual(h, from.History[i]); inherited {
			continue
		}
		if h.Created == nil || h.Created.After(epoch) {
			entries[i].Created = &epoch
		}
	}
	return nil
}

// rewritten is what BuildKit annotates layers with whose times it has clamped: the epoch.
const rewritten = "buildkit/rewritten-timestamp"

// tellClamped annotates the layers of which files are not later than the epoch.
func (src *Source) tellClamped(forms []layerForm) {
	if src.Epoch == nil {
		return
	}
	for i := len(forms) - src.Clamped; i < len(forms); i++ {
		forms[i].desc.Annotations = map[string]string{rewritten: strconv.FormatInt(src.Epoch.Unix(), 10)}
	}
}
