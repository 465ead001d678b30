package container

import (
	"fmt"
	"math/rand/v2"
)

var (
	adjectives = []string{
		"able", "agile", "amber", "autumn", "bold", "brave", "breezy", "bright", "brisk", "calm", "clear", "coastal", "copper",
		"crisp", "deep", "distant", "eager", "early", "fair", "fleet", "gentle", "gilded", "golden", "hardy", "hidden", "humble",
		"keen", "late", "lively", "lucky", "mellow", "merry", "mild", "misty", "noble", "northern", "patient", "plain", "proud",
		"quick", "quiet", "rapid", "ready", "salty", "silent", "silver", "sleepy", "steady", "stout", "sunny", "swift", "tidal",
		"tranquil", "trusty", "upbeat", "windy", "wise", "young",
	}
	nouns = []string{
		"anchor", "ballast", "barge", "beacon", "binnacle", "bosun", "bow", "bridge", "buoy", "cabin", "canoe", "capstan", "clipper",
		"compass", "coxswain", "crane", "cutter", "davit", "deck", "dinghy", "dock", "fender", "ferry", "fjord", "galley", "gangway",
		"halyard", "harbour", "hatch", "hawser", "helm", "hull", "jetty", "keel", "ketch", "launch", "lighthouse", "lugger", "mast",
		"mooring", "oar", "pier", "pilot", "porthole", "quay", "rigging", "rudder", "sail", "schooner", "sextant", "skiff", "sloop",
		"spar", "tender", "tide", "tiller", "tugboat", "wharf", "winch", "yawl",
	}
)

// RandomName makes up a readable name; after a few tries with a number.
func RandomName(try int) string {
	name := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))]
	if try > 3 {
		name += fmt.Sprint(rand.IntN(1000))
	}
	return name
}
