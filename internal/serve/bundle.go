package serve

import (
	"context"
	"io"
	"net"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/util/desktop/bundle"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/slipway-build/slipway/internal/serve/control"
)

// Bundle writes records of builds, which a server has, in the form that Docker Desktop reads, as buildx does.
func Bundle(ctx context.Context, c *control.Server, records []*controlapi.BuildHistoryRecord, w io.Writer) error {
	listener := bufconn.Listen(64 << 10) // nobody else reaches the server by it
	server := grpc.NewServer()
	defer server.Stop()
	c.Register(server)
	go server.Serve(listener) //nolint:errcheck // its client is told
	from, err := client.New(ctx, "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return listener.DialContext(ctx)
	}))
	if err != nil {
		return err
	}
	defer from.Close()
	var all []*bundle.Record
	for _, r := range records {
		all = append(all, &bundle.Record{BuildHistoryRecord: r, DefaultPlatform: platforms.FormatAll(platforms.DefaultSpec())})
	}
	return bundle.Export(ctx, []*client.Client{from}, w, all)
}
