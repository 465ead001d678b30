package sandbox

import (
	"context"
	"errors"
)

type binary struct{ path string }

func (r *binary) run(ctx context.Context, b *bundle, streams IO) error {
	return errors.New("external OCI runtimes are not supported yet")
}
