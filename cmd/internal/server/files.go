package server

import "log/slog"

// fewFiles is a limit of file descriptors that a server with some hundred agents
// reaches.
const fewFiles = 4096

// silentAgents is how many connections of the feed may say nothing: half of the file
// descriptors at most, so that strangers cannot take them all; in a storm of agents each
// is silent for a moment. It logs how many agents there is room for: each takes one.
func silentAgents(log *slog.Logger) int {
	limit, known := fileLimit()
	if !known {
		return 0
	}
	silent := int(min(limit/2, 16384))
	room := limit - uint64(silent) - min(limit/8, 512)
	log.Info("file descriptors", "limit", limit, "room_for_agents", room)
	if limit < fewFiles {
		log.Warn("few file descriptors: set LimitNOFILE to at least twice the number of agents", "limit", limit)
	}
	return max(silent, 1)
}
