package graph

import (
	"errors"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/encoding/protowire"
)

// deep is a definition in a source of a definition, and so on, of so many bytes at least.
func deep(size int) []byte {
	buf := make([]byte, size+100)
	at := len(buf)
	for i := 0; len(buf)-at < size || i%3 > 0; i++ {
		head := protowire.AppendTag(nil, []protowire.Number{3, 2, 3}[i%3], protowire.BytesType) // SourceInfo.definition, Source.infos, Definition.Source
		head = protowire.AppendVarint(head, uint64(len(buf)-at))
		at -= len(head)
		copy(buf[at:], head)
	}
	return buf[at:]
}

// A message that is too deep is not read: its depth on the stack would be the end of the process.
func TestNesting(t *testing.T) {
	d := (&pb.Definition{}).ProtoReflect().Descriptor()
	for size, want := range map[int]error{0: nil, 100: nil, shallow: nil, 30_000: nil, 100_000: errNesting, 16 << 20: errNesting} {
		if err := CheckNesting(d, deep(size)); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", size, err, want)
		}
	}
	flat := &pb.Definition{Def: [][]byte{make([]byte, 1<<20)}, Metadata: map[string]*pb.OpMetadata{}}
	for i := range 20_000 {
		flat.Metadata[string(rune('a'+i))] = &pb.OpMetadata{ProgressGroup: &pb.ProgressGroup{Id: "x"}}
	}
	data, err := flat.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckNesting(d, data); err != nil {
		t.Errorf("a long message: %v", err)
	}
	if err := CheckNesting(d, data[:len(data)-1]); err == nil {
		t.Error("a message that is cut off is one")
	}
	// A number of a field that is one when its bits are cut off, as BuildKit's parser does.
	odd := protowire.AppendVarint(nil, 1<<35|3<<3|2)
	odd = append(protowire.AppendVarint(odd, 16<<20), deep(16<<20)...)
	if err := CheckNesting(d, odd); err == nil {
		t.Error("a field with an odd number hides what it has")
	}
	// An operation has definitions in it, too.
	op := protowire.AppendTag(nil, 5, protowire.BytesType)
	def := deep(16 << 20)
	build := append(protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.BytesType), uint64(len(def))), def...)
	op = append(protowire.AppendVarint(op, uint64(len(build))), build...)
	if _, err := Load(&pb.Definition{Def: [][]byte{op}}); !errors.Is(err, errNesting) {
		t.Errorf("an operation: %v", err)
	}
}
