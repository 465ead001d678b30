package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// What a build that fails is asked to keep is there, whole, or not there, whenever its slipway is killed; and nothing of it stays behind.

// failing is a build whose step leaves files in its root and in a mount, and fails.
const failing = `
FROM busybox
RUN --mount=type=bind,source=src,target=/src,rw mkdir /left && cp /src/* /left && echo new > /src/new && chmod 600 /left/b && exit 7
`

// lookKept prints what the step has left.
const lookKept = `cd /left && sha256sum * && stat -c '%n %a %u' * && cat /src/new`

var keptAs = regexp.MustCompile(`look inside: \S+ debug (failed-failing-[0-9a-f]{8})\n`)

// keepStep is a build that fails, and keeps its step.
func (s *store) keepStep() deed {
	args := []string{"build", "-q", "--on-failure=keep", s.path("contexts", "failing")}
	if s.rng.IntN(2) == 0 {
		args = slices.Insert(args, 1, "--no-cache")
	}
	return deed{args, func(s *store, c result) {
		if keptAs.MatchString(c.err) {
			s.containers[s.slot] = only("there")
		} else {
			s.containers[s.slot] = s.containers[s.slot].or("there").or("")
		}
	}}
}

// lostKept is what builder prune does: kept steps go.
func (s *store) lostKept(_ *store, c result) {
	if s.containers[s.slot] != nil {
		set(s.containers, s.slot, "", c.ok())
	}
}

// keepInPeace finds out what the step leaves.
func (g *ground) keepInPeace(ctx context.Context, s *store) error {
	c := s.exec(ctx, nil, "build", "-q", "--on-failure=keep", g.path("contexts", "failing"))
	m := keptAs.FindStringSubmatch(c.err)
	if m == nil {
		return fmt.Errorf("it has to keep its step: %s\n%s", c, lastLines(c.err, 12))
	}
	left, err := s.must(ctx, "debug", m[1], "--", "sh", "-c", lookKept)
	g.slot, g.left = m[1], left
	if err == nil {
		_, err = s.must(ctx, "rm", m[1])
	}
	return err
}

// checkKept looks into the step that is kept, if there is one, and keeps another one in its place.
func (s *store) checkKept(ctx context.Context) error {
	if s.containers[s.slot] == nil {
		return nil
	}
	out, err := s.must(ctx, "ps", "-a", "--format", "{{.Names}} {{.Status}}")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		name, status, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case !strings.HasPrefix(name, s.slot):
			continue
		case name != s.slot:
			return fmt.Errorf("two steps are kept of one Dockerfile:\n%s", out)
		}
		// The process of the step may have been killed in place of slipway, and how it ended may not be written down.
		if left, err := s.must(ctx, "debug", name, "--", "sh", "-c", lookKept+" || true"); err != nil || strings.HasPrefix(status, "Exited (7)") && left != s.left {
			return errors.Join(err, fmt.Errorf("a wrong step is kept, %s:\n%s\nhas to be\n%s", line, left, s.left))
		}
	}
	c, err := s.do(ctx, s.keepStep())
	if err == nil && s.containers[s.slot].sure() == "" {
		err = fmt.Errorf("it has to keep its step: %s\n%s", c, lastLines(c.err, 12))
	}
	if err != nil {
		return err
	}
	left, err := s.must(ctx, "debug", s.slot, "--", "sh", "-c", lookKept)
	if err == nil && left != s.left {
		err = fmt.Errorf("a wrong step is kept:\n%s\nhas to be\n%s", left, s.left)
	}
	return err
}
