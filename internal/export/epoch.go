package export

import (
	"encoding/json"
	"fmt"
	"reflect"
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
