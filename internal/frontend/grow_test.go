package frontend

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/errdefs"
)

func TestGrowth(t *testing.T) {
	lines := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+"\n", i, i, i+1)
		}
		return b.String()
	}
	double := lines(60000, "ENV A%[3]d=${A%[1]d}${A%[2]d}")
	for name, tc := range map[string]struct {
		text string
		args map[string]string
		line int // at which it is refused; 0: it is not
	}{
		"many":               {"FROM scratch\n" + lines(20000, "ENV A%[1]d=${A%[2]d}value"), nil, 0},
		"double":             {"FROM scratch\nENV A0=12345678\n" + double, nil, 21},
		"double arguments":   {"FROM scratch\nARG A0=12345678\n" + strings.ReplaceAll(double, "ENV", "ARG"), nil, 21},
		"double before FROM": {"ARG A0=12345678\n" + strings.ReplaceAll(double, "ENV", "ARG") + "FROM $A20\n", nil, 20},
		"one variable":       {"FROM scratch\nENV A=12345678\n" + strings.Repeat("ENV A=$A$A\n", 60000), nil, 22},
		"build argument":     {"FROM scratch\nARG A\n" + strings.Repeat("ENV B=$A\n", 1000), map[string]string{"build-arg:A": strings.Repeat("x", 100<<10)}, 166},
		"global argument":    {"ARG A=1234567890\nFROM scratch\nARG A\n" + strings.Repeat("ENV A=$A$A\n", 60), nil, 23},
		"stage on stage":     {"FROM scratch AS a\nENV A=12345678\nFROM a AS b\nENV A=$A$A$A$A\nFROM B\n" + strings.Repeat("ENV A=$A$A\n", 60), nil, 23},
		"stages apart":       {"FROM scratch\nENV A=12345678\n" + strings.Repeat("FROM scratch\nENV A=$A$A\n", 600), nil, 0},
		"replaced":           {"FROM scratch\nENV A=" + strings.Repeat("x", 5000) + "\nENV B=${A//x/$A}\n", nil, 3},
		"replaced, harmless": {"FROM scratch\nENV A=" + strings.Repeat("x", 5000) + "\n" + strings.Repeat("ENV B=${A//./_}${A#x}\n", 100), nil, 0},
		"labels":             {"FROM scratch\nENV A=" + strings.Repeat("x", 10000) + "\nLABEL a=1 b=\"" + strings.Repeat("$A", 2000) + "\"\n", nil, 3},
		"in one instruction": {"FROM scratch\nENV A=12345678 B=$A$A C=$B$B\n" + strings.Repeat("RUN echo $A$B$C\n", 1000), nil, 0},
		"nested":             {"FROM scratch\nENV A=" + strings.Repeat("${A/", 2000) + "\n", nil, 2},
		"no Dockerfile":      {"FRO\x00M", nil, 0},
		"braces":             {"FROM scratch\nENV A=${\nENV B=${A/ C=$ D=${}\n", nil, 0},
	} {
		err := checkGrowth("Dockerfile", []byte(tc.text), tc.args)
		if (err != nil) != (tc.line > 0) {
			t.Errorf("%s: %v", name, err)
		} else if err != nil {
			if line := int(errdefs.Sources(err)[0].Ranges[0].Start.Line); line != tc.line {
				t.Errorf("%s: line %d, want %d", name, line, tc.line)
			}
		}
	}
}
