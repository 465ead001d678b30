package graph

import (
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// maxNesting is how deep a message may be in others, as for protobuf's own parser. That of BuildKit's messages has no limit, and
	// a stack as deep as they are: one that does not fit is the end of the process, which nothing recovers from.
	maxNesting = 10_000
	// shallow is how long a message is at most that is not looked at: those in it have at least two bytes each.
	shallow = 2 * maxNesting
)

var errNesting = fmt.Errorf("a message has more than %d messages in one another", maxNesting)

// CheckNesting refuses a message that is not to be read: one with others in it, in which there are others, and so on.
func CheckNesting(d protoreflect.MessageDescriptor, data []byte) error {
	if len(data) <= shallow {
		return nil
	}
	return nested(d, data, maxNesting)
}

func nested(d protoreflect.MessageDescriptor, data []byte, left int) error {
	if left == 0 {
		return errNesting
	}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, data); n < 0 {
				return protowire.ParseError(n)
			}
			data = data[n:]
			continue
		}
		inner, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if f := d.Fields().ByNumber(num); f != nil && f.Message() != nil {
			if err := nested(f.Message(), inner, left-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// ReadOp reads a serialised operation.
func ReadOp(data []byte) (*pb.Op, error) {
	op := &pb.Op{}
	err := CheckNesting(op.ProtoReflect().Descriptor(), data)
	if err == nil {
		err = op.UnmarshalVT(data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading LLB: %w", err)
	}
	return op, nil
}
