package strictyaml_test

import (
	"slices"
	"strings"
)

// sorted makes texts comparable whose lines of one line number may change places.
func sorted(text string) []string { return slices.Sorted(strings.SplitSeq(text, "\n")) }
