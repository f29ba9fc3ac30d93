// Package cookie seals and opens kt1 tokens: cookie values that every agent of a
// ring can open, before, during and after a rollover.
//
// A web application wants a Cookie: it keeps a value of any type in the browser, as a
// session, and its Middleware seals that anew after a rollover, so that users stay
// logged in.
//
//	sessions, err := cookie.NewCookie[account](cookie.HTTPConfig{
//		Config: cookie.Config{Ring: client.Ring("sso"), Name: "__Host-session"},
//	})
//	…
//	http.ListenAndServe(address, sessions.Middleware(mux))
//	…
//	held, err := sessions.Get(r)                         // who is it?
//	held, err = sessions.Set(w, r, account{User: "ann"}) // log in
//	err = sessions.Clear(w, r)                           // log out
//
// Below it is the Codec, for tokens that travel otherwise: Seal, Open and Reseal.
//
// A Codec follows its ring: it seals with the key that the ring names for its
// purpose and opens with whatever key of that purpose the token names by its key
// id, so a token has one key, not a list of keys to try. It promises:
//
//   - Seal and Open, successful or not, allocate nothing when the buffer given is
//     large enough (a token's length always is). The exception is the first token
//     of each sealer: its subkey is derived once and kept.
//   - A token opens only under the purpose, cookie name and context it was sealed
//     for, and until its issue time plus its maximum age, however often it is
//     resealed.
//   - A pending, empty or mismatched key is never used to seal.
//   - Every refusal of a token is ErrBadToken with the same text. The reason is for
//     logs and counters (ReasonOf), never for whoever sent the token.
//
// It refuses to do without keys: ErrNoKey says that the agent has none, which is
// no fault of the token's.
//
// SPEC.md beside this file has the bytes; testdata/vectors has examples for other
// implementations.
package cookie
