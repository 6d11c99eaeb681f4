//! # Ironbridge: the tour
//!
//! One binary, one library. A gateway polls field devices, publishes every tag on its embedded broker, keeps every sample
//! in SQLite and forwards it over TLS whenever a link is there. Data flows one way; only acknowledgements and commands
//! come back, each on one named road:
//!
//! ```text
//!            bus task (one per bus)                                     local MQTT clients
//!   +-----------------------------------------------+                          ^
//!   | schedule -> driver.read -> decode -> pipeline |                          | broker::door
//!   |    ^                                (scale,   |        live lane         |
//!   |    | commands first                  limits,  |     newest wins    +-----+------+
//!   |    |                         alarms, deadband)|  +---------------> | app::      |
//!   +----+------------------------------------------+  | flow::latest   | publisher  |
//!        |                                        | flow::hub           +------------+
//!        |                                             |  durable lane   +------------+   pull   +--------+
//!        |                                             +---------------> | store      | <------- | uplink |==TLS==> upstream
//!        |                                                waits if full  |            | -------> | window |<=== PUBACK
//!        |                                                               +------------+   ack    +--------+
//!        |            +------------+   journalled before acknowledged
//!        +----------- | app::router| <--------- flow::command <--------- `…/set` on the broker
//!                     +------------+ -- result (class event) --> store, and `…/set/result` on the broker
//! ```
//!
//! ## Where is …?
//!
//! Paths begin in `src`, or in the room that stands before them; with a slash in front, at the top of the repository.
//!
//! | question | file |
//! |---|---|
//! | **A value and its meaning** | |
//! | the word order of a float, BCD, times, bit fields | [`model::registers`] |
//! | sentinels, scale, scale factors, maps; limits, deadband | [`pipeline`] (`meaning`, `scale`; `limits`, `deadband`) |
//! | alarms, swinging doors, staleness | [`pipeline`] (`alarm`, `door`, `point`); the way of an alarm: [`flow::alarms`], [`app::alarms`] |
//! | what an expression may say, and who works it out | [`config::expression`], [`pipeline::derive`], [`field::derived`] |
//! | what time it was, and who vouches for it | [`flow::clock`], [`host::clock`], `app/timekeeper` |
//! | what a topic may be and who owns it | [`model::topic`] |
//! | **The field** | |
//! | which Modbus function writes a value | `field/modbus/write` |
//! | what keeps a late reply from becoming a wrong value | [`field::modbus`] (`gate` on the wire, `exchange` around it); where the network stalls `field/modbus/owed`, `field/line/owed` |
//! | who may ask on a line behind a serial server | `field/carrier/lone` |
//! | how a port or connection to devices is opened; which bytes are a frame | [`field::carrier`]; [`field::modbus`] (`frame`, `ascii`, `inbox`) |
//! | when a device is asked next, and when it counts as down | [`field::schedule`], [`field::standing`] |
//! | who works through a bus: its commands, its connections, its rounds | [`field`] (`bus`, `lane`, `rounds`, `overload`; `flow::timer` where a millisecond counts) |
//! | how a bus goes on with other devices after a reload | `field/adopt` |
//! | when a connection to devices is opened again; who tells its loss, a device that is down, a pause | `field/connection`; `field/envoy` |
//! | how instruments that speak lines of their own are read | [`field::line`]; what a frame is and says: [`config::lines`] |
//! | which registers are read together | [`config::blocks`]; a measured device's holes `field/think`; after an exception `field/modbus/bisect`, remembered in `field/memory`, `app/learned` |
//! | where a SunSpec device has its models, and what if they move | [`model::sunspec`], [`field::sunspec`], `field/models` |
//! | how long a device took to answer, and what went wrong with it | `field/spread`, `field/devices` |
//! | **The configuration** | |
//! | every key of the config file | [`config`] (`schema`, `check`), its meaning in [`config::plan`] |
//! | what is read from which file, and how a mistake is told with its place | [`config`] (`files`, `raw`, `source`; `section`, [`config::problem`]; in words that help: `slip`, `places`) |
//! | what a cloud allows | [`config::preset`] |
//! | the register maps in the binary | [`config::shipped`], `/config/profiles/` |
//! | tags as CSV and back, and why nothing is lost on the way | [`config::exchange`], [`commands::tags`] |
//! | what a plan will cost: bus time, bytes to the cloud, flash | [`config::forecast`], [`config::wire`], [`config::births`]; in money, or from what a store saw [`commands::cost`] |
//! | what a reload changes, and what it leaves alone | [`config::difference`]; the order of it: `app/house`, its parts `app/buses`, `app/uplinks`, `app/bridges`, [`broker`] (`door/warden`), [`store`] (`revise`) |
//! | when a reload is taken back | `app/trial`, `app/reload`; how, and how it stays so: `app/rollback`; by the start after a crash in its trial: `app/fallback`; users and rights: `app/gatekeeper` |
//! | how `ironbridge reload` finds the daemon and waits for it | [`host::control`], [`commands::reload`], [`commands::run`] |
//! | **Local clients** | |
//! | how a local client comes in: TLS, websocket, unix socket, limits, certificates | [`broker`] (`door/threshold`, `door/certificates`, `door/limits`, `door/terms`); the keys: `config/check/listener` |
//! | who may come in, read and write; users, passwords, rules; what slows down guessing | [`access`] (`acl`, `users`, `hash`, `brake`, `desk`); judged in [`broker`] (`ruling`) |
//! | every id of the audit trail | [`access`] (`audit`) |
//! | what a session is owed that outlives its connection | [`broker`] (`core/owing`, `session/course`; what expired gives room back: `core/overdue`) → [`disk`] (`ledger`) |
//! | when a local client is sent its PUBACK, and what that means | [`broker`] (`session/inbound`, `door/duty`) |
//! | what a PUBACK of a local subscriber does | [`broker`] (`session/outbound`, `core/owing`) → [`disk`] (`ledger`) |
//! | what waits for a local client that is slow | [`broker`] (`outbox`) |
//! | what clients leave retained, and the figures below `$SYS` | [`broker`] (`retained`, on disk by `keeping`; `sys`) |
//! | how topics of local clients go upstream, come down, or over a bridge | [`flow::forward`], `app/forwarding`, `app/bridges`; [`uplink`] (`down`) |
//! | which side's is newer where retained messages go both ways, and when they are read again | [`uplink`] (`reading`), [`broker`] (`retained`) |
//! | sensors by MQTT-SN: their datagrams, how they become clients like any other, what one that sleeps gets | [`broker`] (`sn`; `door/sensors`: `gateway`, `translator`, `greeting`; `link`, `delivering`; what a reload changes for them: `door/regime`) |
//! | who goes first when hundreds come in at once | [`broker`] (`door/turnstile`) |
//! | how a mosquitto's configuration becomes ours | [`commands::broker`] |
//! | **The store** | |
//! | how a sample lies on disk | first in a ring of blocks ([`disk`], `tail`), within minutes merged ([`store`], `merge`) into SQLite ([`disk`], `chunk`, `meta`); [`store`] (`segment`, `column`) packs |
//! | when a sample is committed, and what if that fails | [`store`] (`writer`, `commit`) |
//! | what goes when the disk is full, and who is told | [`store`] (`room`), [`flow::hub`] |
//! | what happens to damaged files | [`store`] (`boot`, `salvage`), [`disk`] (`directory`, `image`); which numbers of rows are believed: `disk/plausible`; a medium that refuses a read: `store/patience`, the marks: `disk/marks` |
//! | how a store is read from outside | [`store`] (`inspect`, `pages`), [`store::export`], [`store::purge`] |
//! | how a disk is shown to keep what was committed, kill after kill | [`commands::store`] (`torture`) |
//! | **Upstream** | |
//! | who publishes, and how the MQTT client is driven | [`uplink`] (`feeder`, `sending`; `line`) |
//! | which records share a message | [`uplink`] (`pack`) |
//! | what a PUBACK from upstream does | [`uplink`] (`feeder`, `window`) → [`store`] (`reader`, `cursor`) |
//! | how much is in flight; live beside backlog | [`uplink`] (`pace`, `window`; `lanes`, `filling`) |
//! | what becomes of what the broker does not take | [`uplink`] (`refusal`; a topic it never takes: `forbidden`, `withhold`) |
//! | what goes first after a long outage (`summary_after`) | [`uplink`] (`outage`, `summary`), [`store::preview`] |
//! | which path is taken, how a budget is charged and what may still be spent | [`uplink`] (`routing`: `failover`, `schedule`; `allowance`, `budget`, `tally`) |
//! | what something costs on the wire before the meter has counted it | [`uplink`] (`routing/costs`), from [`config::wire`] |
//! | how a broker is reached: DNS, TLS, byte meter | [`road`] |
//! | MQTT over QUIC, both ends; what happens when the address of this box changes | [`road`] (`quic`; `quic/roam`) |
//! | which MQTT an uplink speaks, and what the broker may answer | [`uplink`] (`version`, `client`, `answer`, `ended`) |
//! | what Azure IoT Hub wants of topics and tokens | [`uplink`] (`azure`) |
//! | how a command from upstream comes in | [`uplink`] (`downlink`) → [`flow::command`] |
//! | the JSON of every payload | [`payload::json`] |
//! | the columns of the format batch, and who knows which tag | [`payload::batch`], `/config/ironbridge-batch.proto` |
//! | an edge node of Sparkplug: births, receipt without PUBACK, the primary host | [`uplink`] (`sparkplug`), [`payload::sparkplug`], [`model::sparkplug`] |
//! | the same on the gateway's own broker: how it comes in, who may speak as it | [`road::inside`], [`broker`] (`door/inside`, `ruling`); `config/check/local` |
//! | how edge nodes of any make are heard | [`receive::sparkplug`], [`commands::receive`] |
//! | which numbers came to the cloud, and which never did | [`receive`] (`ledger`, `consumer`), [`disk::received`] |
//! | **Commands** | |
//! | where a command is refused | [`app::router`], its payload in [`app::request`], its limits in [`config::plan`]; while none can be journalled `app/journalling` says so |
//! | who is logged in there, what a request must show, which commands there are | [`status`] (`login`, `sessions`, `guard`, `operate`) → [`flow::command`], [`flow::operate`] → [`field::switches`] |
//! | **The gateway as a whole** | |
//! | what an operator is told: notices, and the events that become of them | [`flow::notice`] → [`app::events`] |
//! | is all well, and why not | [`status::health`], `app/health`; how everything stands: [`status::board`], `app/board` |
//! | what each counter is called in /metrics | `app/figures` (one file per room), written by [`status::metrics`] |
//! | what the status page shows, and to whom | [`status`] (`board`, `values`, `api`; `page/` is what a browser gets); gathered in `app/board` |
//! | how the status page is reached: limits, hosts, TLS, login; who reads slowly | [`status`] (`server`, `guard`, `certificates`, `visitor`; `answers`, `stall`); the keys: `config/check/status` |
//! | what becomes of a bus that panics, and which tasks must not end | `app/supervisor` |
//! | who is stuck, and what systemd is told | [`flow::progress`], [`app::watchdog`], [`host::notify`]; after several short lives [`host::lives`] |
//! | what happens at SIGTERM | [`app::running`] |
//! | what makes a box somebody's, and how it goes | [`commands::factory_reset`] (`ours`, `beside`, `credentials`) |
//! | **At the cabinet and at a desk** | |
//! | which devices are there, and who they say they are | [`commands::scan`]; on the wire `field/modbus/identity` |
//! | what is wrong with each tag of a real site, and which explanation fits most of them | [`commands::check`] (`live`: `look`, `theory`) |
//! | reading and writing by hand, raw words in every way | [`commands::read`], [`commands::write`], [`commands::decode`] |
//! | the whole story on one machine, without hardware | [`commands::demo`] |
//! | what the simulated plant does wrong on request | [`plant::faults`]; how it shows: `plant/damage` |
//! | what went over the wires of a site, and the file it is kept in | [`field::carrier::tap`], [`recording`] (`record`) |
//! | how a recording is read, shown and played back | [`commands::capture`] (`takes`, `show`), [`commands::replay`], [`plant::script`], [`plant::playback`] |
//! | what whoever helps is sent, and what is taken out of it first | [`commands::diag`] (`blank`, `table`, `scrub`; `bundle`) |
//! | the manual and the completions | [`commands::man`], [`commands::completions`] |
//!
//! ## Floors
//!
//! ```text
//!  floor 4   main  cli  commands/ (one file per subcommand)
//!  floor 3   app/       wiring · supervision · command routing                       knows every room
//!  ------------------------------------------------------------------------------------------------
//!  floor 2   field/   broker/   store/ <- uplink/   status/   plant/   receive/   host/
//!  ------------------------------------------------------------------------------------------------
//!  floor 1   config/  pipeline/  payload/  flow/  disk/  access/  road/  recording/
//!  floor 0   model/                                   the words: no tokio, no I/O, no clock
//! ```
//!
//! A room imports from its floor's allowance and below (`tests/tidy.rs` holds that), and foreign crates live in one room
//! each: SQLite in `disk`, rumqttc in `uplink` and `receive`, Modbus clients in `field::modbus`, the rumqttd cloud in
//! `plant::cloud`. Our own, where a library would have hurt or there was none: the broker's codecs for MQTT (`broker::wire`
//! says why) and MQTT-SN (`broker::sn`), its side of websockets (`broker::door`), and the simulated Modbus servers (late
//! replies must be able to overtake).
//!
//! ## Promises
//!
//! A wrong value is never good. Nothing acknowledged is lost. Every loss is counted and declared. Everything is bounded.
//!
//! ### Where pressure goes
//!
//! Live may lose (newest wins), durable waits two seconds and then declares a gap, commands are refused.
//!
//! | place | bound | when full | counted as |
//! |---|---|---|---|
//! | schedule → wire | one transaction per connection | late polls are skipped, never queued | [`field`]: `polls_skipped` |
//! | bus → live lane | one slot per tag | the newest takes the place of the older | [`flow::latest`]: `replaced` |
//! | bus → durable lane | a channel of batches | the bus waits 2 s at most, not at all once the store has failed; then the samples take their numbers and go into a gap record, reason `store` | [`flow::hub`]: `durable_waits`, `spilled` |
//! | store on disk | `max_size`, `max_age` | the lowest class goes, its oldest first, with a gap record to whom it was owed | [`store`]: `evicted` |
//! | store → uplink | the window, pulled | the uplink stops reading; what waits stays in the store | [`uplink`]: `in_flight`, `backlog` |
//! | commands → bus | a short queue | refused at once | told to its sender: outcome `refused`, reason `busy` |
//! | client → forward | 1 MiB of a client, about 8 MiB of all, until they are stored | who sends more is not read until it is less | nothing is lost: `flow/forward/unsettled` |
//! | sessions, subscriptions, wills | `max_sessions`; 96 MiB of filters; 8 MiB of wills | refused; the last eighth of the first two is for other owners | [`broker`]: `broker/core/places`, `broker/will` |
//! | log → journald, stderr | 4 MiB of lines | lines are dropped, and how many is told | `host/journal/queue`: `log_lines_lost` |
//! | broker → slow client | `max_queued_size` | of the gateway's values the newest stays; one message too many of others ends the connection, what the ledger owes stays owed; while 64 MiB wait for all clients, long ones at QoS 0 are left out | [`broker`]: `conflated`, `dropped_slow`, `dropped_full` |
//!
//! ### The stop
//!
//! Stopping follows the data: only sources hear it, everyone else ends because the channel in front of them closed. (1) Doors
//! and commands refuse. (2) Buses finish the transaction in flight. (3) The store commits. (4) Uplinks send what is left and
//! wait for acknowledgements until their deadline, then say offline. (5) The broker says offline and goodbye. (6) The store
//! saves its cursors and ends. A second SIGTERM skips to the commit ([`flow::stop`], [`app::running`]).
//!
//! ### The walk of a command
//!
//! `…/set` comes in: from a local client, from upstream or from the status page, all by [`flow::command`] → [`app::router`]
//! asks whether the tag is there, may be written and allows the value, whether the deadline has not passed (the earliest of
//! `expires`, the message's expiry and 30 s: what waited out an outage must not move a pump), whether its id was not seen
//! within 24 h (then the old outcome is the answer) → it is journalled on disk ([`disk::journal`]), and only then
//! acknowledged to its sender → its bus takes it before the next poll, between two transactions → written, read back →
//! the journal is closed, the result published and stored. After a crash between write and result the answer is "failed:
//! unknown", never a second write.

// These panic where nobody reads: commands::print and tell, and host::terminal::say, do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod access;
pub mod app;
pub mod broker;
pub mod cli;
pub mod commands;
pub mod config;
pub mod disk;
pub mod field;
pub mod flow;
pub mod host;
pub mod model;
pub mod payload;
pub mod pipeline;
pub mod plant;
pub mod receive;
pub mod recording;
pub mod road;
pub mod status;
pub mod store;
pub mod uplink;
