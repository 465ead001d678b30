package main

// catalogue is every row, in the table's order.
func catalogue() []row {
	return []row{
		{name: "start", n: 50, goal: "3", make: startRow},
		{name: "cached", n: 20, goal: "1.3", make: cachedRow},
		{name: "edited", n: 10, goal: "1.5", make: editedRow},
		{name: "run30", n: 10, goal: "0.35", make: runRow},
		{name: "parallel", n: 5, goal: "1.15", make: parallelRow},
		{name: "import", n: 5, make: importRow},
		{name: "fleet", n: 5, goal: "1.5", debian: true, make: fleetRow},
		{name: "context-cold", n: 3, goal: "1.5", make: contextColdRow},
		{name: "context", n: 3, goal: "1.5", make: contextRow},
		{name: "context-edited", n: 3, goal: "1.3", make: contextEditedRow},
		{name: "context-same", n: 10, goal: "2 + start", make: contextSameRow},
		{name: "copy-final", n: 3, goal: "1.5", toolset: true, make: copyFinalRow},
		{name: "copy-run", n: 3, goal: "4", toolset: true, make: copyRunRow},
		{name: "oci-gzip", n: 3, goal: "1", make: compressRow("gzip", "pigz", "pigz -p 2 -6")},
		{name: "oci-zstd", n: 3, goal: "1", make: compressRow("zstd", "zstd", "zstd -q -T2 -3")},
		{name: "pull-run", n: 3, goal: "1", toolset: true, make: pullRunRow},
		{name: "pull-base", n: 3, goal: "1.3", toolset: true, make: pullBaseRow},
		{name: "user-run30", n: 10, goal: "1.15", make: userRunRow},
		{name: "in-place-run30", n: 10, goal: "1.5", make: inPlaceRunRow},
		{name: "in-place-large", n: 3, goal: "kaniko 5 times", make: inPlaceLargeRow},
		{name: "client-cached", n: 10, goal: "1", client: true, make: clientCachedRow},
		{name: "client-edited", n: 5, goal: "1", client: true, make: clientEditedRow},
		{name: "client-bake", n: 5, goal: "1", client: true, make: clientBakeRow},
		{name: "client-context", n: 3, goal: "3", client: true, make: clientContextRow},
		{name: "client-context-same", n: 5, goal: "3", client: true, make: clientContextSameRow},
		{name: "client-context-edited", n: 5, goal: "3", client: true, make: clientContextEditedRow},
		{name: "client-16", n: 2, goal: "1, below 400 MB", client: true, make: clientAtOnceRow},
		{name: "serve-idle", n: 5, goal: "1, below 60 MB", client: true, make: serveIdleRow},
		{name: "go-cold", n: 1, warm: true, make: goWarmRow(true).make},
		{name: "go-edited", n: 3, goal: "10", warm: true, make: goWarmRow(false).make},
		{name: "npm-cold", n: 1, warm: true, make: npmWarmRow(true).make},
		{name: "npm-dependency", n: 3, goal: "4", warm: true, make: npmWarmRow(false).make},
	}
}
