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
	}
}
