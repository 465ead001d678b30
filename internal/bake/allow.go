package bake

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/docker/buildx/bake"
)

// allowed is what --allow gives, with the files below the working directory.
func (o *Options) allowed() (bake.EntitlementConf, error) {
	ent, err := bake.ParseEntitlements(o.Allow)
	if err != nil {
		return ent, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return ent, fmt.Errorf("finding the working directory: %w", err)
	}
	ent.FSRead = append(ent.FSRead, wd)
	ent.FSWrite = append(ent.FSWrite, wd)
	return ent, nil
}

// Authorize asks for what the targets want and --allow does not give: on out, and with an answer from
// the terminal where there is one.
func (d *Definition) Authorize(ctx context.Context, out io.Writer) error {
	wanted, err := d.entitlement.Validate(d.options)
	if err != nil {
		return err
	}
	return wanted.Prompt(ctx, d.source.input != nil, out)
}
