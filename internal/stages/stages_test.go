package stages

import (
	"errors"
	"strings"
	"testing"
)

// described is "TARGET<NEEDS" of each part, with a ! of one that has the builder's platform, a ? of one that asks for the target's, and a - of one that runs nothing.
func described(parts []*Part) string {
	var all []string
	for _, p := range parts {
		var needs []string
		for _, n := range p.Needs {
			needs = append(needs, n.Target)
		}
		s := p.Target
		for i, is := range []bool{p.Fixed, p.Targeted, !p.Runs} {
			if is {
				s += "!?-"[i : i+1]
			}
		}
		if needs != nil {
			s += "<" + strings.Join(needs, ",")
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		name, dockerfile string
		o                Options
		want             string
	}{
		{name: "one stage", dockerfile: "FROM a\nRUN x", want: "0"},
		{name: "nothing to run", dockerfile: "FROM a\nCOPY . .", want: "0-"},
		{
			name: "two beside each other", want: "a b 2-<a,b",
			dockerfile: "FROM x AS a\nRUN x\nFROM x AS b\nRUN y\nFROM scratch\nCOPY --from=a / /\nCOPY --from=B / /",
		},
		{name: "a chain", want: "2", dockerfile: "FROM x AS a\nRUN x\nFROM a AS b\nRUN y\nFROM scratch\nCOPY --from=1 / /"},
		{
			name: "a base of two", want: "base a<base b<base,a 3-<a,b",
			dockerfile: "FROM x AS base\nRUN x\nFROM base AS a\nRUN x\nFROM base AS b\nRUN --mount=from=a,target=/a y\nFROM b\nCOPY --from=a / /",
			o:          Options{Contexts: []string{"other"}},
		},
		{
			name: "through a stage that runs nothing", want: "a b 3-<a,b",
			dockerfile: "FROM x AS a\nRUN x\nFROM x AS b\nRUN x\nFROM scratch AS files\nCOPY --from=a / /\nCOPY --from=b / /\nFROM x\nCOPY --from=files / /",
		},
		{
			name: "what the target does not need", want: "a b t<a,b", o: Options{Target: "t"},
			dockerfile: "FROM x AS a\nRUN x\nFROM x AS b\nRUN y\nFROM x AS unused\nRUN z\nFROM x AS t\nCOPY --from=a / /\nRUN --mount=from=b,target=/b w\nFROM t\nRUN v",
		},
		{name: "a target by number", want: "0", o: Options{Target: "0"}, dockerfile: "FROM x\nRUN x\nFROM y\nRUN y"},
		{
			name: "a context in the place of a stage", want: "1", o: Options{Contexts: []string{"A"}},
			dockerfile: "FROM x AS a\nRUN x\nFROM y\nCOPY --from=a / /\nRUN y",
		},
		{
			name: "variables", want: "on off 3?-<on,off", o: Options{Args: map[string]string{"WHICH": "on"}, Platform: map[string]string{"TARGETARCH": "arm64"}},
			dockerfile: "ARG WHICH=off\nARG OTHER=${WHICH:-x}\nFROM x AS on\nRUN x\nFROM x AS off\nRUN x\nFROM x AS base-arm64\nCOPY --from=on / /\nFROM base-$TARGETARCH\nCOPY --from=off / /",
		},
		{
			name: "a stage with a platform of its own", want: "build! 1<build",
			dockerfile: "FROM --platform=$BUILDPLATFORM x AS build\nRUN x\nFROM y\nRUN --mount=from=build,target=/b z",
		},
		{
			name: "of which another one has it", want: "build! 2-<build",
			dockerfile: "FROM --platform=$BUILDPLATFORM x AS base\nFROM base AS build\nRUN x\nFROM y\nCOPY --from=build / /",
		},
		{name: "the target's by name", want: "0", dockerfile: "FROM --platform=$TARGETPLATFORM x\nRUN x"},
		{
			name: "what asks for the target's, and what needs that", want: "a? b?<a 2?-<a,b",
			dockerfile: "FROM x AS a\nARG TARGETARCH\nRUN x\nFROM x AS b\nRUN --mount=from=a,target=/a y\nFROM scratch\nCOPY --from=b / /\nCOPY --from=a / /",
		},
		{
			name: "a global argument without a value", want: "on other 3?<on,other", o: Options{Platform: map[string]string{"TARGETARCH": "arm64"}},
			dockerfile: "ARG TARGETARCH\nFROM x AS on\nRUN x\nFROM x AS other\nRUN z\nFROM x AS base-arm64\nCOPY --from=on / /\nFROM base-$TARGETARCH\nRUN --mount=from=other,target=/o y",
		},
		{
			name: "a name that is given twice", want: "0 a 2-<0,a", // the frontend's rules: the later one counts, and mounts know names alone
			dockerfile: "FROM x AS a\nRUN x\nFROM x AS a\nRUN y\nRUN --mount=from=0,target=/x z\nFROM z\nCOPY --from=a / /\nCOPY --from=0 / /",
		},
	} {
		parts, err := Split([]byte(c.dockerfile), c.o)
		if got := described(parts); err != nil || got != c.want {
			t.Errorf("%s: %s %v, want %s", c.name, got, err, c.want)
		}
	}
}

func TestSplitNot(t *testing.T) {
	for dockerfile, want := range map[string]string{
		"FROM x AS a\nONBUILD RUN x\nFROM a":                       "ONBUILD",
		"FROM x AS a\nCOPY --from=$WHO / /":                        "$WHO",
		"FROM base-$TARGETARCH":                                    "$TARGETARCH",
		"# syntax=example.com/mine\nFROM x":                        "example.com/mine",
		"# syntax=example.com/mine\nNONSENSE of a language of its": "example.com/mine",
	} {
		if _, err := Split([]byte(dockerfile), Options{}); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dockerfile, err)
		}
	}
	amd64 := Options{Platform: map[string]string{"BUILDPLATFORM": "linux/amd64", "TARGETPLATFORM": "linux/amd64"}}
	if _, err := Split([]byte("FROM --platform=linux/riscv64 x"), amd64); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	if _, err := Split([]byte("FROM x"), Options{Args: map[string]string{"BUILDKIT_SYNTAX": "example.com/mine"}}); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	for dockerfile, want := range map[string]string{"": "", "FROM x\nNONSENSE": "NONSENSE", "ARG A": "no stages"} {
		if _, err := Split([]byte(dockerfile), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dockerfile, err)
		}
	}
	if _, err := Split([]byte("FROM x"), Options{Target: "nosuch"}); err == nil || !strings.Contains(err.Error(), `"nosuch"`) {
		t.Error(err)
	}
}
