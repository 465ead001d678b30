package store

import (
	"errors"
	"fmt"
	"strings"
)

// ErrAmbiguous marks a prefix that several IDs have.
var ErrAmbiguous = errors.New("multiple IDs found with provided prefix")

// byID finds the one of all whose ID starts with prefix; several of the same ID are one. None is
// ErrNotFound, several are [ErrAmbiguous].
func byID[T any](all []T, prefix string, id func(T) string) (T, error) {
	var hit, none T
	found := ""
	if isHex(prefix) {
		for _, v := range all {
			switch got := id(v); {
			case !strings.HasPrefix(got, prefix), got == found:
			case found != "":
				return none, fmt.Errorf("%w: %s", ErrAmbiguous, prefix)
			default:
				hit, found = v, got
			}
		}
	}
	if found == "" {
		return none, ErrNotFound
	}
	return hit, nil
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}
