package advise

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestDownloads(t *testing.T) {
	for command, want := range map[string]bool{
		"npm ci": true, "npm ci --omit=dev && rm -rf /tmp/x": true, "apt-get update && apt-get install -y --no-install-recommends curl": true, "A=b pip install -r requirements.txt": true,
		"go mod download": true, "go build ./...": false, "npm run build": false, "npm ci || true": false, "npm ci; npm test": false, "if true; then npm ci; fi": false,
		"npm ci & sleep 1": false, "test -e x && npm ci": false, "npm $(cat x)": false, "npm ci < x": false, "rm -rf x": false, "": false, "yarn": true, "yarn build": false,
		"python -m pip install x": true, "python setup.py": false, "cp *.json /x && npm ci": false, "set -e\nnpm ci": true,
		"yarn --frozen-lockfile": true, "npm --quiet ci": true, "mvn -B dependency:go-offline -q": true, "npm --prefix web ci": false, "go mod download && go mod verify": true, "go mod tidy": false,
		"apt-get install -y x && rm -rf /var/lib/apt/lists/*": true, "npm ci && rm -rf *": false, "npm ci && rm -rf /x dist/*": false, "apt-get install *": false, "cargo fetch": true, "cargo build": false,
		"cd web && npm ci": true, "cd - && npm ci": false, "cd web": false, "cd $X && npm ci": false, "cd 'a b' && npm ci": false, "cd w* && npm ci": false,
		`pip install "uvicorn[standard]" 'x; y'`: true, `pip install "$(cat x)"`: false, "pip install $X ${Y}": true, "pip install ${X:-`cat y`}": false, `$X ci`: false, `"npm" ci`: false, "npm ci \x00": false,
		`npm ci "x`: false, "bundle install --jobs 4": true, "bundle exec rake": false, "pnpm install --frozen-lockfile": true, "corepack enable && yarn install --immutable": true,
	} {
		if got := downloads(command) != nil; got != want {
			t.Errorf("%q: got %t", command, got)
		}
	}
}

func TestCacheDir(t *testing.T) {
	tool := toolCache{dirs: []string{"/.cache/go-build", "/go/pkg/mod"}}
	for name, want := range map[string]string{
		"/root/.cache/go-build/00/x": "/root/.cache/go-build", "/go/pkg/mod/cache/x": "/go/pkg/mod", "/root/go/pkg/mod/x": "/root/go/pkg/mod", "/go/pkg/mod": "", "/go/pkg/module/x": "",
		"/a b/.cache/go-build/x": "", "/x,target=/etc/.cache/go-build/x": "", "/src/go/pkg/mods/go/pkg/mod/x": "/src/go/pkg/mods/go/pkg/mod",
	} {
		if got := cacheDir(tool, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestNewCopies(t *testing.T) {
	p := plainCopy{keyword: "COPY", flags: " --chown=1", source: ".", dest: "."}
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{"a", "b", "x/y/c"}, "COPY --chown=1 a b ./\nCOPY --chown=1 x/y/c x/y/\n"},
		{[]string{"with space"}, `COPY --chown=1 ["with space","./"]` + "\n"},
		{[]string{"-f"}, `COPY --chown=1 ["-f","./"]` + "\n"},
		{[]string{"a*"}, ""}, {[]string{"$x"}, ""}, {[]string{"a\nRUN evil"}, ""}, {nil, ""},
	} {
		got := ""
		for _, l := range p.lines(c.names) {
			got += l + "\n"
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.names, got, c.want)
		}
	}
	p.source, p.dest = "src", "/app/"
	if got := p.lines([]string{"a", "b/c"}); len(got) != 2 || got[0] != "COPY --chown=1 src/a /app/" || got[1] != "COPY --chown=1 src/b/c /app/b/" {
		t.Errorf("got %q", got)
	}
	if p.dest = "/"; p.lines([]string{"a"})[0] != "COPY --chown=1 src/a /" {
		t.Errorf("got %q", p.lines([]string{"a"}))
	}
}

// What advise gives as JSON is what docs/schemas says.
func TestSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schemas/advice.json")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"dockerfile": "Dockerfile", "image": "sha256:x", "size": 1, "findings": []Finding{
		{Rule: "a", Line: 1, Instruction: "RUN x", Bytes: 1, Context: true, Seconds: 0.5, What: "b", Change: "c", Patch: "d"}, {Rule: "a", Line: 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
		err = schema.Validate(got)
	}
	if err != nil {
		t.Error(err)
	}
	got.(map[string]any)["more"] = true
	if schema.Validate(got) == nil {
		t.Error("it lets everything pass")
	}
}
