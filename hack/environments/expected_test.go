package environments

// expectation is what becomes of a Dockerfile in an environment. The zero value: the image is the one that root makes.
type expectation struct {
	fails   string // what the message has in it
	differs string // why the image is another one
	notYet  bool   // it fails so today, and is not to
}

// Messages of what slipway does not do yet.
var (
	notAsUser  = expectation{fails: "operation not permitted", notYet: true}
	notInside  = expectation{fails: "operation not permitted", notYet: true}
	noTrusted  = expectation{fails: "operation not permitted", notYet: true}
	noKeyring  = expectation{fails: "operation not permitted", notYet: true}
	notInPlace = expectation{fails: "ERROR", notYet: true}
	nowhere    = expectation{fails: "steps cannot be run here"}
	notBeyond  = expectation{fails: "exit code: 1", notYet: true} // chown to an ID without a place in the namespace
)

// What the kernel keeps to root of the machine.
var noDevices = expectation{fails: "mknod: /null: Operation not permitted"}

// What is otherwise in place.
var oom = expectation{fails: "wrote oom_score_adj"}
var oneName = expectation{differs: "a file that an earlier step made with several names is changed through one of them: overlayfs has a new file of that name, in place all have it"}

// expected has the rows that are not the zero value, by environment and Dockerfile; "*" is each Dockerfile that is not named.
var expected = map[string]map[string]expectation{
	"user":                  {"devices": noDevices, "ids": notBeyond},
	"user-one":              {"*": notAsUser, "copy": {}},
	"user-nnp":              {"*": notAsUser, "copy": {}},
	"sys-admin":             {"*": noKeyring, "copy": {}},
	"unconfined":            {"*": notInside, "copy": {}},
	"unconfined-unmasked":   {"devices": noDevices},
	"unconfined-no-volume":  {"first-to-die": oom, "*": notInPlace, "copy": {}},
	"unconfined-user":       {"*": notAsUser, "copy": {}},
	"unconfined-restricted": {"*": notAsUser, "copy": {}},
	"unconfined-read-only":  {"*": notInside, "copy": {}},
	"setid":                 {"devices": noDevices},
	"pod-sys-admin":         {"*": noTrusted, "copy": {}},
	"pod-unconfined":        {"*": notInside, "copy": {}},
	"docker":                {"first-to-die": oom, "*": notInPlace, "copy": {}},
	"docker-volume":         {"files": oneName, "first-to-die": oom, "mounts": notInPlace},
	"docker-plain-root":     {"files": oneName, "first-to-die": oom, "mounts": notInPlace},
	"docker-read-only":      {"*": nowhere, "copy": {}},
	"pod":                   {"first-to-die": oom, "*": notInPlace, "copy": {}},
	"no-namespaces":         {"first-to-die": oom, "*": notInPlace, "copy": {}},
	"restricted":            {"*": notInPlace},
	"openshift":             {"*": notInPlace},
}

func expect(env, name string) expectation {
	rows := expected[env]
	if e, ok := rows[name]; ok {
		return e
	}
	return rows["*"]
}
