package keystore

import "fmt"

// A textTable maps the stored numbers of one enumeration to their words and back.
type textTable[T ~uint8] struct {
	what  string
	names map[T]string
}

func (t textTable[T]) name(v T) string {
	if s, ok := t.names[v]; ok {
		return s
	}
	return fmt.Sprintf("%s(%d)", t.what, uint8(v))
}

func (t textTable[T]) marshal(v T) ([]byte, error) {
	if s, ok := t.names[v]; ok {
		return []byte(s), nil
	}
	return nil, invalidf("unknown %s %d", t.what, uint8(v))
}

func (t textTable[T]) parse(s string) (T, error) {
	for v, name := range t.names {
		if name == s {
			return v, nil
		}
	}
	return 0, invalidf("unknown %s %q", t.what, s)
}
