// Package transfer brings images into a store and out of it as Docker does, and says so in Docker's words: pulls, pushes, and which images an
// archive gets. A front door shows the words: see [Display].
package transfer

import "github.com/distribution/reference"

// Display shows what becomes of the layers of a transfer.
type Display interface {
	// Printf tells a line.
	Printf(format string, args ...any)
	// Layer tells what is done with a layer, of which id are the first digits of the digest: current bytes of total, if that is known and it is
	// under way.
	Layer(id, words string, current, total int64)
}

// isTagged reports whether a reference can be the name of an image.
func isTagged(ref reference.Named) bool {
	_, digested := ref.(reference.Digested)
	_, tagged := ref.(reference.Tagged)
	return tagged && !digested
}
