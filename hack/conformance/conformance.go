// Package conformance compares what slipway makes of Dockerfiles with what BuildKit makes of them.
//
// # Structure
//
// cases/NAME.txtar is one context with one or more Dockerfiles ([Case], case.go); setup.go makes
// what a txtar file cannot hold. Both builders write an OCI archive and a stream of progress, of
// which normalize.go makes a [Record]: all that must be equal, as text that does not depend on the
// machine or the day.
//
// The records of BuildKit are in testdata/buildkit. `make conformance` makes them (package
// record): it compiles BuildKit's daemon from its released sources and lets it build every case. The test of
// this package builds the cases with slipway and compares, so it needs neither BuildKit nor a
// network.
//
// # Differences
//
// Two are left out everywhere: the time of a directory that BuildKit gave the time of the build, and what
// slipway's errors say around BuildKit's words. Any other difference is a bug, unless it stands in docs/differences.md. Then the case has a section
// "differs/DOCKERFILE" with exactly the lines that differ, and the test fails when they are others.
package conformance
