package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
)

func addVerifyFlag(f *pflag.FlagSet, value *string) {
	f.StringVar(value, "verify-cache", "", `Run again what was cached, and tell which steps do not give the same files; the result stays the cached one ("warn", "strict": exit code 1)`)
	f.Lookup("verify-cache").NoOptDefVal = "warn"
}

// maxShown is how many paths of a step are shown; the record of the build has them all.
const maxShown = 10

// printVerified tells which steps are not reproducible, and makes an error of that if it is to be one.
func (a *app) printVerified(r *build.Result, how, mode string) error {
	if how == "" {
		return nil
	}
	var b strings.Builder
	differ, times := 0, 0
	for _, v := range r.Verified {
		if v.Times > 0 {
			times++
		}
		if !v.Same() {
			differ++
			tellVerified(&b, v)
		}
	}
	if mode != "quiet" && mode != "none" && mode != "rawjson" {
		text := fmt.Sprintf("\nVerified %s: %d not reproducible, %d with other times of files\n%s", count(len(r.Verified), "cached step"), differ, times, b.String())
		if _, err := io.WriteString(a.stderr, text); err != nil {
			return err
		}
	}
	if differ > 0 && how == "strict" {
		return fmt.Errorf("%s not reproducible: builds/%s/record.json in the store has the files", count(differ, "cached step"), r.ID)
	}
	return nil
}

func tellVerified(b *strings.Builder, v engine.Verified) {
	fmt.Fprintf(b, "WARNING: not reproducible: %s\n", v.Name)
	if v.Error != "" {
		fmt.Fprintf(b, "  it fails: %s\n", v.Error)
	}
	for _, d := range v.Differences[:min(len(v.Differences), maxShown)] {
		fmt.Fprintf(b, "  %s\n", d)
	}
	if v.Count > maxShown {
		fmt.Fprintf(b, "  and %d more\n", v.Count-maxShown)
	}
}
