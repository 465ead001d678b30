package environments

import "maps"

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
	// remade: directories of the container's root filesystem belong to who runs steps afterwards, and not to root, as who is not root makes them anew.
	remade bool
}

// What the kernel keeps to root of the machine, or the container to itself.
var (
	noDevices   = expectation{fails: "mknod: /null: Operation not permitted", why: "devices are made by root of the machine alone"}
	nowhere     = expectation{fails: "steps cannot be run here", why: "a step needs a root filesystem that can be written to, or namespaces; what has no RUN is built"}
	oom         = expectation{fails: "wrote oom_score_adj", why: "a step can have its builder ended before itself when memory is short"}
	linkedCache = expectation{fails: "exit code: 1", why: "a cache mount on another filesystem than the root's is a symbolic link, which stat tells of"}
	oneName     = expectation{differs: true, why: "a file that an earlier step made with several names is changed through one of them: overlayfs has a new file of that name, in place all have it"}
)

// hidden is of what works in /workspace, where these containers have theirs.
var hidden = expectation{fails: "hides this step's working directory /workspace", why: "the container has a mount of its own at the path of a WORKDIR, which cannot be put aside: it is to be mounted elsewhere"}

// What is to come.
var (
	notBeyond = expectation{fails: "exit code: 1", notYet: true, why: "owners that the namespace does not have are refused"}
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
var oneID = rows{}

// placed are the rows of in place, with those of one environment.
func placed(more rows) rows {
	all := rows{"files": oneName, "first-to-die": oom, "workspace": hidden, "large-operator": hidden}
	maps.Copy(all, more)
	return all
}

// expected has each environment of the catalogue.
var expected = map[string]place{
	"root":                            {mode: rootMode, rows: nil},
	"user":                            {mode: userSubIDs, rows: rows{"devices": noDevices, "ids": notBeyond}},
	"user-one":                        {mode: userOne, rows: oneID},
	"user-nnp":                        {mode: userOne, rows: oneID},
	"privileged":                      {mode: rootMode, rows: nil},
	"sys-admin":                       {mode: rootMode, rows: nil},
	"unconfined":                      {mode: userContainer, rows: rows{"devices": noDevices}},
	"unconfined-unmasked":             {mode: userContainer, rows: rows{"devices": noDevices}},
	"sys-admin-no-volume":             {mode: rootMode, rows: nil},
	"unconfined-no-volume":            {mode: userContainer, rows: rows{"devices": noDevices}},
	"unconfined-no-memory":            {mode: inPlace, rows: placed(nil)},
	"unconfined-user":                 {mode: userOne, rows: oneID},
	"unconfined-restricted":           {mode: userOne, rows: oneID},
	"unconfined-restricted-no-volume": {mode: userOne, rows: oneID},
	"unconfined-read-only":            {mode: userContainer, rows: rows{"devices": noDevices}},
	"setid":                           {mode: userContainer, rows: rows{"devices": noDevices}},
	"pod-sys-admin":                   {mode: rootMode, rows: rows{"devices": noDevices, "ids": notBeyond}},
	"pod-unconfined":                  {mode: userContainer, rows: rows{"devices": noDevices, "ids": notBeyond}},
	"docker":                          {mode: inPlace, rows: placed(nil)},
	"docker-volume":                   {mode: inPlace, rows: placed(rows{"mounts": linkedCache})},
	"docker-plain-root":               {mode: inPlace, rows: placed(nil)},
	"docker-read-only":                {mode: notAvailable, rows: rows{"*": nowhere, "copy": {}}},
	"pod":                             {mode: inPlace, rows: placed(rows{"devices": noDevices, "ids": notBeyond})},
	"no-namespaces":                   {mode: inPlace, rows: placed(rows{"devices": noDevices, "ids": notBeyond})},
	"restricted":                      {mode: inPlace, rows: placed(nil), remade: true},
	"openshift":                       {mode: inPlace, rows: placed(nil), remade: true},
}

func expect(env, name string) expectation {
	rows := expected[env].rows
	if e, ok := rows[name]; ok {
		return e
	}
	return rows["*"]
}
