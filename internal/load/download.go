package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
)

// Download opens a file of a server, which is read as it comes. One that is not there is [errdefs.ErrNotFound], what is no address
// [errdefs.ErrInvalidArgument].
func Download(ctx context.Context, url, userAgent string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("downloading: %v", err))
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("downloading: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		text := fmt.Sprintf("downloading %s: the server answered %s", url, resp.Status)
		if resp.StatusCode == http.StatusNotFound {
			return nil, errdefs.ErrNotFound.WithMessage(text)
		}
		return nil, errors.New(text)
	}
	return resp.Body, nil
}
