// Package isolation says how steps of builds and containers can be kept apart from the machine by who started this process, and chooses.
//
// # Structure
//
// [Find] looks at what this process may do ([Facts]); [Choose] makes a [Choice] of that and of what the user wants, without looking at
// anything itself. [Enter] executes this program again, which enters a user namespace before Go's threads are there (enter.c): a thread
// alone cannot. What it left is gone, so it has to be called before anything was read or written. [Entered] says, then, what came of it.
//
// # Caveats
//
// In the namespace this process is root of what it has, and of nothing else: os.Geteuid is 0. Who the user is says [User].
package isolation

import (
	"errors"
	"fmt"
	"strings"
)

// Mode is a way to keep steps apart from the machine.
type Mode string

const (
	Auto   Mode = "auto"   // the best of those that can be had
	Root   Mode = "root"   // with the rights of root, of the machine or of a container
	UserNS Mode = "userns" // with those of root in a user namespace that this program makes and enters
	None   Mode = "none"   // in place: steps change this container's own root, nothing is kept apart
)

// ParseMode reads a mode. "default" is Docker's word for one that is not chosen.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "", "default":
		return Auto, nil
	case Auto, Root, UserNS, None:
		return m, nil
	}
	return "", fmt.Errorf("invalid isolation %q: want %s, %s, %s or %s", s, Auto, Root, UserNS, None)
}

// IDs says which IDs there are in a user namespace that this program makes.
type IDs string

const (
	Subordinate IDs = "subids"   // the user's, and those that are subordinate to it
	Identity    IDs = "identity" // those of the container
	One         IDs = "one"      // the user's alone
)

// Choice is how steps are run.
type Choice struct {
	Mode Mode // "" where nothing can be had: Err says why
	IDs  IDs  // with UserNS
	// Why is one line that says why it is this mode and no better one.
	Why string
	// Better are the modes that would be better, or were wanted, with what each needs.
	Better []Lack
	// Err is told when something has to run: what needs none of this works without. It is nil where Mode is not "".
	Err error
	// InMemory: what a step changes is in memory until it has ended.
	InMemory bool
	// Nested: in a user namespace, of this program or around it. The kernel takes some things for those that are root without one.
	Nested bool

	enter maps
}

// Lack says what a mode needs.
type Lack struct {
	Mode Mode
	IDs  IDs
	Need // the first thing that is missing
}

func (l Lack) String() string {
	if l.IDs == "" {
		return fmt.Sprintf("%s: %s", l.Mode, l.Need)
	}
	return fmt.Sprintf("%s (%s): %s", l.Mode, l.IDs.describe(), l.Need)
}

func (i IDs) describe() string {
	switch i {
	case Subordinate:
		return "subordinate IDs"
	case Identity:
		return "the container's IDs"
	case One:
		return "one ID, owners are recorded"
	}
	return string(i)
}

// String is the mode with its IDs, for people.
func (c *Choice) String() string {
	switch {
	case c.Mode == "":
		return "not available"
	case c.IDs != "":
		return fmt.Sprintf("%s (%s)", c.Mode, c.IDs.describe())
	}
	return string(c.Mode)
}

// Line is the choice and its reason in one line.
func (c *Choice) Line() string {
	if c.Why == "" {
		return c.String()
	}
	return c.String() + ": " + c.Why
}

// Without is the choice of a process that could not enter.
func (c *Choice) Without(err error) *Choice {
	return &Choice{Nested: c.Nested, Better: append(c.Better, Lack{c.Mode, c.IDs, Need{Text: err.Error()}}), Err: err}
}

// Enters reports whether this process has to enter a namespace for it.
func (c *Choice) Enters() bool { return c.enter.uids != "" }

// way is a mode that may be had.
type way struct {
	mode Mode
	ids  IDs
	// needs says what is missing for it, one after the other; without an answer it can be had.
	needs func(*Facts) *Need
	why   func(*Facts) string
}

// ways are all of them, the best first.
var ways = []way{
	{Root, "", needsForRoot, whyRoot},
	{UserNS, Identity, needsForIdentity, whyIdentity},
	{UserNS, Subordinate, needsForSubordinate, whySubordinate},
	{UserNS, One, needsForOne, whyOne},
	{None, "", needsForNone, whyNone},
}

// Choose chooses a mode: the one that is wanted, or the best one.
func Choose(f *Facts, wanted Mode) *Choice {
	if wanted != Auto {
		return f.choose(wanted, 0)
	}
	least := int64(leastRoom)
	if f.Made == Root { // steps in place cannot use what is in it
		least = 0
	}
	c := f.choose(wanted, least)
	if c.Mode == "" && f.OverlayStore != "" { // a little memory is better than nothing
		c = f.choose(wanted, 0)
	}
	return c
}

// choose does so where what steps change in memory needs least bytes.
func (f *Facts) choose(wanted Mode, least int64) *Choice {
	f.least = least
	c := &Choice{Nested: f.InUserNS}
	for _, w := range ways {
		if wanted != Auto && w.mode != wanted {
			continue
		}
		need := w.needs(f)
		if need == nil {
			c.take(f, &w)
			return c
		}
		if need.Text != "" { // it is nothing for this user
			c.Better = append(c.Better, Lack{w.mode, w.ids, *need})
		}
	}
	c.Err = &LackError{Wanted: wanted, Lacks: c.Better}
	return c
}

// take makes it the choice of a way.
func (c *Choice) take(f *Facts, w *way) {
	c.Mode, c.IDs, c.Why = w.mode, w.ids, w.why(f)
	c.enter = w.maps(f)
	c.Nested = c.Nested || w.mode == UserNS
	if f.OverlayStore != "" && w.mode != None {
		c.InMemory = true
		c.Why += "; " + f.inMemory()
		c.Better = append(c.Better, Lack{w.mode, w.ids, *f.volume("so that what a step changes fills memory until it ends")})
	}
}

// LackError says why nothing can be run, and what would change that.
type LackError struct {
	Wanted Mode
	Lacks  []Lack
}

func (e *LackError) Error() string {
	head := "steps cannot be run here"
	if e.Wanted != Auto {
		head = fmt.Sprintf("--isolation=%s cannot be had here", e.Wanted)
	}
	var lines []string
	for _, l := range e.Lacks {
		lines = append(lines, l.String())
	}
	if len(lines) == 1 {
		return head + ": " + lines[0]
	}
	return head + ":\n  " + strings.Join(lines, "\n  ")
}

// errNoCgo is why a program without C cannot enter anything.
var errNoCgo = errors.New("this program was built without cgo, and cannot enter a user namespace")

// Chosen is the choice of a process that has entered.
func Chosen(e *Entry) *Choice { return &Choice{Mode: UserNS, IDs: e.IDs, Why: e.Why, Nested: true} }
