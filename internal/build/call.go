package build

// Answer is what the Dockerfile frontend says to a [Request.Call], by BuildKit's keys:
// "result.json", "result.txt", "result.statuscode", "version".
type Answer map[string][]byte

// optRequest is the frontend's option for what it is asked instead of building.
const optRequest = "requestid"

// callAttrs makes a build's options of the frontend those of a call.
func (r *Request) callAttrs(attrs map[string]string) {
	if r.Call == "" {
		return
	}
	attrs[optRequest] = r.Call
	attrs["frontend.caps"] = "moby.buildkit.frontend.subrequests+forward"
}
