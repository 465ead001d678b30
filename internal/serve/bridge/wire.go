package bridge

import (
	"context"
	"strings"
	"unicode/utf8"

	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // it reads messages without reflection
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-build/slipway/internal/graph"
)

// WireOptions are those of every server about what goes over a connection: messages that may be read, and errors that may be written.
// They come before others, as interceptors are called in their order.
func WireOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			res, err := handler(ctx, req)
			return res, textual(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return textual(handler(srv, s))
		}),
	}
}

// codec refuses messages that are nested so deep that reading them ends the process.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	if err := graph.CheckNesting(m.ProtoReflect().Descriptor(), whole.ReadOnlyData()); err != nil {
		return err
	}
	return c.CodecV2.Unmarshal(mem.BufferSlice{whole}, v)
}

// textual is an error whose words a message may have: otherwise its client is not told what it is about. What a client has said, or a
// file is called, may be no text.
func textual(err error) error {
	st, ok := status.FromError(err)
	if !ok || err == nil || utf8.ValidString(st.Message()) {
		return err
	}
	p := st.Proto()
	p.Message = strings.ToValidUTF8(p.Message, "\uFFFD")
	return status.ErrorProto(p)
}
