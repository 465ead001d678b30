package build

// Answer is what the Dockerfile frontend says to a [Request.Call], by BuildKit's keys:
// "result.json", "result.txt", "result.statuscode", "version".
type Answer map[string][]byte

// callAttrs makes a build's options of the frontend those of a call.
func (r *Request) callAttrs(attrs map[string]string) {
	if r.Call == "" {
		return
	}
	attrs["requestid"] = r.Call
	attrs["frontend.caps"] = "moby.buildkit.frontend.subrequests+forward"
}
