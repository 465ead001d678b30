package cli

import (
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/view"
)

func TestHistoryTimes(t *testing.T) {
	for in, want := range map[time.Time]string{
		{}:                             "N/A",
		time.Unix(0, 0):                "N/A", // SOURCE_DATE_EPOCH=0
		time.Now().Add(-3 * time.Hour): "3 hours ago",
	} {
		row := &historyRow{step: view.HistoryStep{History: ocispec.History{Created: &in}}, human: true}
		if got := row.CreatedSince(); got != want {
			t.Errorf("%v is %q, want %q", in, got, want)
		}
		row.human = false
		if got := row.CreatedSince(); got != in.Local().Format(time.RFC3339) {
			t.Errorf("%v is %q without -H", in, got)
		}
	}
	if got := (&historyRow{human: true}).CreatedSince(); got != "N/A" {
		t.Errorf("no time is %q", got)
	}
}
