package environments

// expectation is what becomes of a Dockerfile in an environment. The zero value: the image is the one that root makes.
type expectation struct {
	fails   string // what the message has in it
	differs string // why the image is another one
	notYet  bool   // it fails so today, and is not to
}

// Messages of what slipway does not do yet.
var (
	notAsUser    = expectation{fails: "setting owner: operation not permitted", notYet: true}
	notInside    = expectation{fails: "making a private mount namespace (this needs root): operation not permitted", notYet: true}
	noTrusted    = expectation{fails: "fsconfig create: operation not permitted", notYet: true}
	noKeyring    = expectation{fails: "making a keyring: operation not permitted", notYet: true}
	notInCapless = expectation{fails: "operation not permitted", notYet: true}
)

// expected has the rows that are not the zero value, by environment and Dockerfile; "*" is each Dockerfile that is not named.
var expected = map[string]map[string]expectation{
	"user":                  {"*": notAsUser},
	"user-one":              {"*": notAsUser},
	"user-nnp":              {"*": notAsUser},
	"sys-admin":             {"*": noKeyring, "copy": {}},
	"unconfined":            {"*": notInside, "copy": {}},
	"unconfined-unmasked":   {"*": notInside, "copy": {}},
	"unconfined-no-volume":  {"*": notInside, "copy": {}},
	"unconfined-user":       {"*": notAsUser},
	"unconfined-restricted": {"*": notAsUser},
	"unconfined-read-only":  {"*": notInside, "copy": {}},
	"setid":                 {"*": notInCapless, "copy": {}},
	"pod-sys-admin":         {"*": noTrusted, "copy": {}},
	"pod-unconfined":        {"*": notInside, "copy": {}},
	"docker":                {"*": notInside, "copy": {}},
	"docker-volume":         {"*": notInside, "copy": {}},
	"docker-plain-root":     {"*": notInside, "copy": {}},
	"docker-read-only":      {"*": notInside, "copy": {}},
	"pod":                   {"*": notInside, "copy": {}},
	"no-namespaces":         {"*": notInside, "copy": {}},
	"restricted":            {"*": notAsUser},
	"openshift":             {"*": notAsUser},
}

func expect(env, name string) expectation {
	rows := expected[env]
	if e, ok := rows[name]; ok {
		return e
	}
	return rows["*"]
}
