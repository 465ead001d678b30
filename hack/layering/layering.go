// Package layering has no code: its test checks that the imports of slipway's packages point
// downward, and that what belongs to one package stays there. Each rule carries its reason.
package layering
