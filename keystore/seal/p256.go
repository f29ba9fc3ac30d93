package seal

import (
	"crypto/ecdh"
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// GenerateP256 makes a P-256 key, as material: what is for one server alone is sealed
// to it.
func GenerateP256() keystore.Material {
	for {
		m := Generate()
		if _, err := P256(m); err == nil {
			return m
		}
		// One draw in 2³² is not below the curve's order.
	}
}

// P256 returns the P-256 key whose scalar m is.
func P256(m keystore.Material) (key *ecdh.PrivateKey, err error) {
	err = m.Use(func(scalar []byte) error {
		key, err = ecdh.P256().NewPrivateKey(scalar)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: not the scalar of a P-256 key", keystore.ErrInvalid)
	}
	return key, nil
}
