package bundle

import "github.com/go-jose/go-jose/v4"

// CloseWeakly closes with the fewest iterations that are accepted, for tests that
// open often.
func CloseWeakly(signed string, passphrase []byte) (string, error) {
	return closeWith(signed, jose.Recipient{
		Algorithm: jose.PBES2_HS512_A256KW, Key: passphrase, PBES2Count: minIterations,
	})
}
