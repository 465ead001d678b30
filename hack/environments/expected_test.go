package environments

// expectation is what becomes of a Dockerfile in an environment. The zero value: the image is the one that root makes.
type expectation struct {
	fails   string // what the message has in it
	differs bool   // the image is another one
	why     string // for docs/unprivileged.md
	notYet  bool   // it is to be as for root one day: that it is, or fails otherwise, is no error
}

// rows are expectations by Dockerfile; "*" is each one that is not named.
type rows map[string]expectation

// place is what an environment is to be.
type place struct {
	mode string // as "slipway info" tells it
	rows rows
}

// What the kernel keeps to root of the machine, or the container to itself.
var (
	noDevices = expectation{fails: "mknod: /null: Operation not permitted", why: "devices are made by root of the machine alone"}
	nowhere   = expectation{fails: "steps cannot be run here", why: "a step needs a root filesystem that can be written to, or namespaces; what has no RUN is built"}
	oom       = expectation{fails: "wrote oom_score_adj", why: "a step can have its builder ended before itself when memory is short"}
	oneName   = expectation{differs: true, why: "a file that an earlier step made with several names is changed through one of them: overlayfs has a new file of that name, in place all have it"}
)

// What is to come.
var (
	later     = expectation{fails: "ERROR", notYet: true, why: "not yet"}
	notBeyond = expectation{fails: "exit code: 1", notYet: true, why: "not yet: owners that the namespace does not have"}
)

const (
	rootMode      = "root"
	userSubIDs    = "userns (subordinate IDs)"
	userContainer = "userns (the container's IDs)"
	userOne       = "userns (one ID, owners are recorded)"
	inPlace       = "none"
	notAvailable  = "not available"
)

// oneID is where owners are recorded.
var oneID = rows{"devices": noDevices, "attack": later, "files": later, "ids": later, "mounts": later, "users": later}

// expected has each environment of the catalogue.
var expected = map[string]place{
	"root":                  {rootMode, nil},
	"user":                  {userSubIDs, rows{"devices": noDevices, "ids": notBeyond}},
	"user-one":              {userOne, oneID},
	"user-nnp":              {userOne, oneID},
	"privileged":            {rootMode, nil},
	"sys-admin":             {rootMode, nil},
	"unconfined":            {userContainer, rows{"devices": noDevices}},
	"unconfined-unmasked":   {userContainer, rows{"devices": noDevices}},
	"unconfined-no-volume":  {inPlace, rows{"first-to-die": oom, "*": later, "copy": {}}},
	"unconfined-user":       {userOne, oneID},
	"unconfined-restricted": {userOne, oneID},
	"unconfined-read-only":  {userContainer, rows{"devices": noDevices}},
	"setid":                 {userContainer, rows{"devices": noDevices}},
	"pod-sys-admin":         {rootMode, rows{"devices": noDevices, "ids": notBeyond}},
	"pod-unconfined":        {userContainer, rows{"devices": noDevices, "ids": notBeyond}},
	"docker":                {inPlace, rows{"first-to-die": oom, "*": later, "copy": {}}},
	"docker-volume":         {inPlace, rows{"files": oneName, "first-to-die": oom, "mounts": later}},
	"docker-plain-root":     {inPlace, rows{"files": oneName, "first-to-die": oom, "mounts": later}},
	"docker-read-only":      {notAvailable, rows{"*": nowhere, "copy": {}}},
	"pod":                   {inPlace, rows{"first-to-die": oom, "*": later, "copy": {}}},
	"no-namespaces":         {inPlace, rows{"first-to-die": oom, "*": later, "copy": {}}},
	"restricted":            {inPlace, rows{"*": later, "copy": {}}},
	"openshift":             {inPlace, rows{"*": later, "copy": {}}},
}

func expect(env, name string) expectation {
	rows := expected[env].rows
	if e, ok := rows[name]; ok {
		return e
	}
	return rows["*"]
}
