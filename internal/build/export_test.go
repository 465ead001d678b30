package build

import "time"

// AfterFailure sets how long a build that failed may go on to write to a cache, until the function is called that it returns.
func AfterFailure(d time.Duration) (restore func()) {
	old := afterFailure
	afterFailure = d
	return func() { afterFailure = old }
}
