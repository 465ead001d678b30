package migrate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Scripts that would be followed for ever end with a problem.
func TestEndless(t *testing.T) {
	var calls strings.Builder
	for i := range 40 {
		fmt.Fprintf(&calls, "f%d() { f%d; f%d; }\n", i, i+1, i+1)
	}
	calls.WriteString("f40() { true; }\nif x; then f0; fi\nf0\ndocker build .\n")
	loops := strings.Repeat("for a in 1 2 3 4 5 6 7 8 9; do\n", 12) + "true\n" + strings.Repeat("done\n", 12)
	for name, text := range map[string]string{"calls": calls.String(), "loops": loops, "recursion": "f() { f; f; }\nf\ndocker build .\n"} {
		file := filepath.Join(t.TempDir(), "build.sh")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var problems Problems
		if _, err := Read(file); !errors.As(err, &problems) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
