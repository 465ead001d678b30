package environments

// expectation is what becomes of a Dockerfile in an environment. The zero value: the image is the one that root makes.
type expectation struct {
	fails   string // what the message has in it
	differs string // why the image is another one
	notYet  bool   // it fails so today, and is not to
}

// What is not there yet: another message, or none, is no error.
var (
	later     = expectation{fails: "ERROR", notYet: true}
	notBeyond = expectation{fails: "exit code: 1", notYet: true} // chown to an ID that the namespace does not have
)

// What the kernel keeps to root of the machine.
var noDevices = expectation{fails: "mknod: /null: Operation not permitted"}

// What cannot be had.
var (
	nowhere     = expectation{fails: "steps cannot be run here"}
	oom         = expectation{fails: "wrote oom_score_adj"}
	linkedCache = expectation{fails: "exit code: 1"} // stat sees the link to a cache that is on another filesystem
	oneName     = expectation{differs: "a file that an earlier step made with several names is changed through one of them: overlayfs has a new file of that name, in place all have it"}
)

// oneID is where owners are recorded.
var oneID = map[string]expectation{"devices": noDevices, "attack": later, "files": later, "ids": later, "mounts": later, "users": later}

// expected has the rows that are not the zero value, by environment and Dockerfile; "*" is each Dockerfile that is not named.
var expected = map[string]map[string]expectation{
	"user":                  {"devices": noDevices, "ids": notBeyond},
	"user-one":              oneID,
	"user-nnp":              oneID,
	"unconfined":            {"devices": noDevices, "first-to-die": oom},
	"unconfined-unmasked":   {"devices": noDevices},
	"unconfined-no-volume":  {"*": later, "copy": {}},
	"unconfined-user":       oneID,
	"unconfined-restricted": oneID,
	"unconfined-read-only":  {"devices": noDevices, "first-to-die": oom},
	"setid":                 {"devices": noDevices},
	"pod-sys-admin":         {"devices": noDevices, "ids": notBeyond},
	"pod-unconfined":        {"devices": noDevices, "first-to-die": oom, "ids": notBeyond},
	"docker":                {"files": oneName, "first-to-die": oom},
	"docker-volume":         {"files": oneName, "first-to-die": oom, "mounts": linkedCache},
	"docker-plain-root":     {"files": oneName, "first-to-die": oom},
	"docker-read-only":      {"*": nowhere, "copy": {}},
	"pod":                   {"files": oneName, "first-to-die": oom, "devices": noDevices, "ids": notBeyond},
	"no-namespaces":         {"files": oneName, "first-to-die": oom, "devices": noDevices, "ids": notBeyond},
	"restricted":            {"*": later, "copy": {}},
	"openshift":             {"*": later, "copy": {}},
}

func expect(env, name string) expectation {
	rows := expected[env]
	if e, ok := rows[name]; ok {
		return e
	}
	return rows["*"]
}
