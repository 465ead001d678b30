package load

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Download opens a file of a server, which is read as it comes.
func Download(ctx context.Context, url, userAgent string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("downloading: %w", err)
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("downloading: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("downloading %s: the server answered %s", url, resp.Status)
	}
	return resp.Body, nil
}
