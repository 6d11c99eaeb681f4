#!/usr/bin/env python3
"""The status page in a real browser: headless Chromium in front of a real gateway with simulated devices.

A technician's visit: values appear and move, a dead device is named, a line is drawn, a wrong password is refused, a value is
written and read back, a device is paused and resumed, the gateway falls silent, or answers without values, and the page says
so. All of it with names that would be scripts if anybody took them for HTML, under the page's own content security policy, on
a phone and on a wide screen, light and dark. Every text must have a contrast of 4.5 against what is behind it, nothing may be
wider than the screen, and the browser may ask nobody but the gateway.

usage: page.py IRONBRIDGE [--pictures DIR]        (needs Chromium; pip: playwright)
"""
import json, os, re, shutil, signal, subprocess, sys, tempfile, time, urllib.request

from bench import free_port

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    print("SKIPPED: no playwright for Python, so the status page was not looked at in a browser")
    sys.exit(0)

binary = os.path.realpath(sys.argv[1])
chromium = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"])), None)
if not chromium:
    print("SKIPPED: no Chromium, so the status page was not looked at in a browser")
    sys.exit(0)
pictures = sys.argv[sys.argv.index("--pictures") + 1] if "--pictures" in sys.argv else None

# No slash: it would be another level of the topic. Browsers run this all the same, if they are let.
EVIL = "<img src=x onerror=alert(1)>"
EVIL_TAG = "\"><svg onload=alert(2)>"
failures, running = [], []


def check(name, ok, got=""):
    print(f"  {'ok  ' if ok else 'FAIL'} {name}" + ("" if ok else f": {got!r}"), flush=True)
    if not ok:
        failures.append(name)


def start(*command, **more):
    process = subprocess.Popen(command, start_new_session=True, **more)
    running.append(process)
    return process


def config(work, port):
    text = lambda name: json.dumps(name)
    return f"""
[gateway]
name = "pump <b>station"
topic = "acme/{{gateway}}/{{device}}/{{tag}}"
data_dir = {text(work + "/data")}
[broker]
users_file = {text(work + "/users")}
[[broker.listener]]
listen = "127.0.0.1:0"
anonymous = "read"
[[broker.acl]]
user = "hmi"
read = ["#"]
write = ["acme/+/pump-1/+/set"]
operate = ["pump-1"]
[[broker.acl]]
user = "viewer"
read = ["acme/+/pump-1/#"]
[status]
listen = "127.0.0.1:{port}"
anonymous = "read"
[[uplink]]
name = "<u>cloud"
url = "mqtt://127.0.0.1:1"
client_id = "x"
budget = ["20MiB/day"]
[[bus]]
name = "plc-net"
type = "modbus-tcp"
endpoint = "127.0.0.1:502"
[[bus]]
name = {text("bus" + EVIL)}
type = "modbus-tcp"
endpoint = "127.0.0.1:503"
response_timeout = "300ms"
[[device]]
name = "pump-1"
bus = "plc-net"
unit_id = 1
poll = "200ms"
[[device.tag]]
name = "pressure"
address = "holding:100"
type = "float32"
unit = "bar"
min = -1000.0
max = 1000.0
description = "discharge side"
[[device.tag]]
name = "energy"
address = "holding:120"
type = "uint64"
unit = "Wh"
[[device.tag]]
name = "setpoint"
address = "holding:110"
type = "float32"
unit = "bar"
access = "read-write"
write = {{ min = 0.0, max = 10.0 }}
[[device.tag]]
name = "running"
address = "coil:1"
access = "read-write"
[[device]]
name = {text(EVIL)}
bus = {text("bus" + EVIL)}
unit_id = 1
[[device.tag]]
name = {text(EVIL_TAG)}
address = "holding:0"
type = "uint16"
unit = "<i>x</i>"
description = "<script>alert(3)</script>"
[[device]]
name = "meter-2"
bus = {text("bus" + EVIL)}
unit_id = 2
[[device.tag]]
name = "power"
address = "holding:0"
type = "uint16"
"""


CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = element => { for (let e = element; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = new Map();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, .skip, svg, option")) continue;
    const style = getComputedStyle(element), [a, b] = [light(parse(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.set(element.className + ":" + element.textContent.trim().slice(0, 30), ratio.toFixed(2));
  }
  return [...poor];
}"""


# How often a page that is looked at for long asks to be told of the same thing.
WATCHERS = """() => {
  window.watchers = 0;
  const add = document.addEventListener;
  document.addEventListener = function (event, ...more) { if (event === "visibilitychange") window.watchers += 1; return add.call(this, event, ...more); };
}"""


class Visit:
    """One browser window, with everything that must not happen in it."""

    def __init__(self, browser, base, width, scheme):
        self.page = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme).new_page()
        self.noise, self.dialogs, self.strangers = [], [], []
        self.page.on("console", lambda said: self.noise.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda ask: None if ask.url.startswith((base, "data:")) else self.strangers.append(ask.url))
        self.page.add_init_script(f"({WATCHERS})()")
        self.page.goto(base)

    def text(self, selector):
        return self.page.inner_text(selector)

    def until(self, what, script, arg=None, within=20):
        """Playwright's own wait_for_function would need eval, which the page's policy forbids."""
        end = time.monotonic() + within
        while not (holds := self.page.evaluate(script, arg)) and time.monotonic() < end:
            time.sleep(0.05)
        check(what, holds, holds or self.page.inner_text("body")[:900])

    def end(self, of, quiet=()):
        noise = [line for line in self.noise if not any(word in line for word in quiet)]
        check(f"{of}: nothing ran that was not ours", not self.dialogs, self.dialogs)
        check(f"{of}: no error and no violation of the policy", not noise, noise[:5])
        check(f"{of}: nobody else was asked for anything", not self.strangers, self.strangers[:5])
        self.page.context.close()


def look(browser, base):
    """Every screen, once."""
    for width in (360, 1600):
        for scheme in ("light", "dark"):
            visit, of = Visit(browser, base, width, scheme), f"{width} px, {scheme}"
            visit.until(f"{of}: values are there", "document.querySelectorAll('#rows tr').length >= 4")
            visit.page.wait_for_timeout(1500)
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            check(f"{of}: not wider than the screen", visit.page.evaluate(overflow) <= 0, visit.page.evaluate(overflow))
            check(f"{of}: every text can be read", not visit.page.evaluate(CONTRAST), visit.page.evaluate(CONTRAST))
            if pictures:
                visit.page.screenshot(path=f"{pictures}/page-{width}-{scheme}.png", full_page=True)
            visit.page.click("#rows tr:first-child .tag")
            visit.until(f"{of}: a tag opens", "document.getElementById('tag-box').open")
            visit.page.wait_for_timeout(1200)
            check(f"{of}: a tag is not wider than the screen", visit.page.evaluate(overflow) <= 0)
            check(f"{of}: every text of a tag can be read", not visit.page.evaluate(CONTRAST), visit.page.evaluate(CONTRAST))
            if pictures:
                visit.page.screenshot(path=f"{pictures}/tag-{width}-{scheme}.png")
            visit.page.keyboard.press("Escape")
            visit.end(of)


def read(browser, base):
    """What everybody on this machine sees."""
    visit = Visit(browser, base, 1000, "light")
    page = visit.page
    visit.until("values appear", "/\\d/.test(document.querySelector('#rows .value')?.textContent ?? '')")
    before = visit.text("#rows tr:first-child .value")
    visit.until("values move", "before => document.querySelector('#rows tr:first-child .value').innerText !== before", before)
    check("a span is rounded once", [page.evaluate(f"span({seconds})") for seconds in (10795, 7199, 7170, 7169)] == ["3 h 0 min", "2 h 0 min", "2 h 0 min", "119 min"])
    visit.until("a line is drawn", "document.querySelector('#rows .line path')?.getAttribute('d')?.length > 20")
    visit.until("a dead device is named at the top", "document.getElementById('verdict').innerText.includes('meter-2')", within=40)
    check("and the page does not look good", page.get_attribute("#verdict", "data-state") in ("warn", "bad"))
    visit.until("it says no answer in words, too", "[...document.querySelectorAll('.device')].some(row => row.innerText.includes('meter-2') && row.innerText.includes('no answer'))")
    check("the uplink is there, not connected", "cloud" in visit.text("#uplinks"), visit.text("#uplinks"))
    check("its budget is a bar", page.query_selector("#uplinks .bar") is not None)
    check("names are text", EVIL in visit.text("#buses") and page.query_selector("#buses img") is None)
    page.select_option("#device", EVIL)
    visit.until("so are those of tags", "name => [...document.querySelectorAll('#rows .tag')].some(tag => tag.textContent === name)", EVIL_TAG)
    page.click("#rows .tag")
    visit.until("and descriptions", "document.getElementById('tag-facts').innerText.includes('<script>alert(3)')")
    page.keyboard.press("Escape")
    page.select_option("#device", "*")
    page.fill("#filter", "press")
    visit.until("tags are found by name", "document.querySelectorAll('#rows tr').length === 1")
    page.fill("#filter", "")
    check("nobody who is not logged in is offered a command", not page.is_visible("#operate"))
    page.select_option("#device", "pump-1")
    visit.until("one device again", "[...document.querySelectorAll('#rows .tag')].some(tag => tag.textContent === 'setpoint')")
    page.focus("#device")
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "tag":
            break
    check("the keyboard comes to a tag", page.evaluate("document.activeElement.className") == "tag", page.evaluate("document.activeElement.outerHTML"))
    page.keyboard.press("Enter")
    visit.until("and opens it", "document.getElementById('tag-box').open")
    page.keyboard.press("Escape")
    check("and closes it", not page.evaluate("document.getElementById('tag-box').open"))
    page.wait_for_timeout(3000)
    check("rounds leave nothing behind in the browser", page.evaluate("window.watchers") == 1, page.evaluate("window.watchers"))
    visit.end("reading")


def log_in(visit, user, password):
    visit.page.click("#login")
    visit.page.fill("#login-user", user)
    visit.page.fill("#login-password", password)
    visit.page.click("#login-form button[type=submit]")


RESULT = "document.getElementById('write-result').textContent"


def answers_belong_to_their_tag(visit):
    """What became of a write is said where it was asked for, whatever is open when it is known. The tag `setpoint` is open."""
    page, held = visit.page, []

    def turn_to(tag):
        page.click("#tag-close")
        page.click(f"#rows .tag:text-is('{tag}')")

    page.route("**/api/command/write", lambda route: held.append(route))
    page.fill("#write-value", "3.5")
    page.click("#write-send")
    page.click("#ask-box button[value=yes]")
    visit.until("a write is on its way", f"{RESULT} === 'Writing …'")
    turn_to("running")
    check("another tag is not said to be written meanwhile", page.evaluate(RESULT) == "", page.evaluate(RESULT))
    check("and may be written", page.is_enabled("#write-send"))
    turn_to("setpoint")
    check("the one that is written still says so", page.evaluate(RESULT) == "Writing …", page.evaluate(RESULT))
    check("and may not be written again before the answer", not page.is_enabled("#write-send"))
    turn_to("running")
    with page.expect_response("**/api/command/write"):
        held.pop().continue_()
    page.wait_for_timeout(300)
    check("the answer to one tag does not stand under another", page.evaluate(RESULT) == "", page.evaluate(RESULT))
    page.unroute("**/api/command/write")
    turn_to("setpoint")
    check("a write that is over is no reason to wait", page.is_enabled("#write-send") and page.evaluate(RESULT) == "", page.evaluate(RESULT))


def answers_belong_to_their_device(visit):
    """The same for what is done to a device; `pump-1` is chosen."""
    page, held = visit.page, []
    said = "document.getElementById('operated').textContent"
    page.route("**/api/command/poll", lambda route: held.append(route))
    page.click("[data-operation=poll]")
    page.evaluate("device => turn(device)", EVIL)  # as the page does by itself when a reload takes the device out meanwhile
    check("what was done to one device is not said of another", page.evaluate(said) == "", page.evaluate(said))
    with page.expect_response("**/api/command/poll"):
        held.pop().continue_()
    page.wait_for_timeout(300)
    check("nor is the answer that comes later", page.evaluate(said) == "", page.evaluate(said))
    page.unroute("**/api/command/poll")
    page.select_option("#device", "pump-1")
    visit.until("one device again, after an answer", "!document.getElementById('operate').hidden && document.querySelectorAll('#rows .tag').length === 4")


def work(browser, base):
    """What a user with rights does."""
    visit = Visit(browser, base, 1000, "light")
    page = visit.page
    visit.until("one can log in", "!document.getElementById('login').hidden")
    log_in(visit, "<img src=x onerror=alert(4)>", "x")
    visit.until("not with a name that is a script", "document.getElementById('login-error').textContent.includes('Not logged in')")
    page.click("#login-cancel")
    log_in(visit, "hmi", "wrong")
    visit.until("not with a wrong password", "document.getElementById('login-error').textContent.includes('wrong password')")
    page.click("#login-cancel")
    log_in(visit, "hmi", "secret <b>")
    visit.until("with the right one", "document.getElementById('user').textContent === 'hmi'")
    cookies = page.context.cookies()
    check("the cookie is out of reach of scripts", len(cookies) == 1 and cookies[0]["httpOnly"] and cookies[0]["sameSite"] == "Strict", cookies)
    check("and not seen by them", page.evaluate("document.cookie") == "")
    page.select_option("#device", EVIL)
    visit.until("a device without the right has no buttons", "document.getElementById('operate').hidden")
    page.select_option("#device", "pump-1")
    visit.until("one with it has", "!document.getElementById('operate').hidden")
    visit.until("its tags are there", "[...document.querySelectorAll('#rows .tag')].some(tag => tag.textContent === 'setpoint')")

    page.click("text=setpoint")
    visit.until("a tag that may be written has a form", "!document.getElementById('write-form').hidden")
    page.fill("#write-value", "4.25")
    page.click("#write-send")
    page.click("#ask-box button[value=yes]")
    visit.until("a value is written and read back", "document.getElementById('write-result').textContent.includes('now says 4.25')")
    if pictures:
        page.screenshot(path=f"{pictures}/write.png")
    page.fill("#write-value", "99")
    page.click("#write-send")
    page.click("#ask-box button[value=yes]")
    visit.until("not beyond its limits", "document.getElementById('write-result').textContent.includes('outside the limits')")
    page.fill("#write-value", "much")
    page.click("#write-send")
    visit.until("nor what is no number", "document.getElementById('write-result').textContent.includes('Type a number')")
    for text in ("1,500", " -2,000 "):
        page.fill("#write-value", text)
        page.click("#write-send")
        visit.until(f"nor '{text}', which can mean two things", "document.getElementById('write-result').textContent.includes('can mean two things') && !document.getElementById('ask-box').open")
        page.fill("#write-value", "much")
        page.click("#write-send")
        visit.until("another trial", "document.getElementById('write-result').textContent.includes('Type a number')")
    page.fill("#write-value", "0,125")
    page.click("#write-send")
    page.click("#ask-box button[value=yes]")
    visit.until("one comma that can mean one thing only is understood", "document.getElementById('write-result').textContent.includes('now says 0.125')")
    page.route("**/api/command/write", lambda route: route.fulfill(status=503, body="this took too long"))
    page.fill("#write-value", "3")
    page.click("#write-send")
    page.click("#ask-box button[value=yes]")
    visit.until("a write that was broken off is not called undone", "/Look at the value/.test(document.getElementById('write-result').textContent)")
    check("nor is it said that it was not written", "Not written" not in visit.text("#write-result"), visit.text("#write-result"))
    page.unroute("**/api/command/write")
    answers_belong_to_their_tag(visit)
    page.click("#tag-close")
    page.click("text=pressure")
    visit.until("one that may not has none", "document.getElementById('tag-box').open && document.getElementById('write-form').hidden")
    page.keyboard.press("Escape")

    page.click("[data-operation=pause]")
    page.evaluate("device => choose(device)", EVIL)  # as the page does by itself when a reload takes the device out meanwhile
    page.click("#ask-box button[value=yes]")
    page.select_option("#device", "pump-1")
    visit.until("the device that was asked about is paused, and says so", "[...document.querySelectorAll('.device')].some(row => row.innerText.includes('pump-1') && row.innerText.includes('paused'))")
    visit.until("its values are bad, and why", "[...document.querySelectorAll('#rows .quality')].every(cell => cell.innerText.includes('paused'))")
    visit.until("it is among the events", "document.getElementById('events').innerText.includes('paused on the status page by hmi')")
    page.click("[data-operation=resume]")
    visit.until("and it comes back", "[...document.querySelectorAll('#rows .quality')].every(cell => cell.innerText.includes('good'))")
    page.click("[data-operation=poll]")
    visit.until("it is polled when asked", "document.getElementById('operated').textContent === 'Asked.'")
    answers_belong_to_their_device(visit)
    page.click("[data-operation=reset]")
    page.click("#ask-box button[value=yes]")
    visit.until("and reset", "document.getElementById('operated').textContent === 'Reset.'")

    page.click("#logout")
    visit.until("one can log out", "document.getElementById('user').textContent === '' && document.getElementById('operate').hidden")
    log_in(visit, "viewer", "look")
    visit.until("another user", "document.getElementById('user').textContent === 'viewer'")
    page.select_option("#device", EVIL)
    visit.until("does not see the tags that he may not read", "document.querySelectorAll('#rows tr').length === 0 && !document.getElementById('nothing').hidden")
    page.select_option("#device", "pump-1")
    visit.until("sees the others", "document.querySelectorAll('#rows tr').length === 4")
    check("and may do nothing", not page.is_visible("#operate"))
    visit.end("working", quiet=["401", "503"])


BOX = "document.getElementById('tag-box').innerText"


def lose(browser, base, gateway, config):
    """The gateway falls silent and comes back."""
    visit = Visit(browser, base, 1000, "light")
    visit.until("the page is live", "document.querySelectorAll('#rows tr').length >= 4")
    visit.page.click("text=energy")
    visit.until("a tag is open", f"/good/.test({BOX}) && /now \\(/.test({BOX})")
    gateway.send_signal(signal.SIGSTOP)
    visit.until("a silent gateway is told", "document.getElementById('verdict-title').textContent === 'No connection to the gateway'")
    visit.until("and how old the figures are", "/figures are \\d/.test(document.getElementById('pulse').textContent)")
    visit.until("the open tag does not say any more that it is good now", f"/No connection/.test({BOX}) && !/good/.test({BOX}) && !/now \\(/.test({BOX})")
    gateway.send_signal(signal.SIGCONT)
    visit.until("and its return", "document.getElementById('verdict-title').textContent !== 'No connection to the gateway' && !document.body.classList.contains('lost')")
    visit.until("the open tag is good again", f"/good/.test({BOX}) && !/No connection/.test({BOX})")
    whole = open(config).read()
    open(config, "w").write(re.sub(r'\[\[device\.tag\]\]\s*name = "energy".*?(?=\[\[)', "", whole, flags=re.S))
    check("a tag can be taken out", open(config).read() != whole, whole[-600:])
    gateway.send_signal(signal.SIGHUP)
    visit.until("an open tag that a reload removed says so", f"/not in the list/.test({BOX}) && !/good/.test({BOX})")
    visit.end("losing", quiet=["Failed to load", "ERR_"])


QUALITIES = "[...document.querySelectorAll('#rows .quality')].map(cell => cell.innerText.trim())"


def freeze(browser, base):
    """The board is answered, and the values are not."""
    visit = Visit(browser, base, 1000, "light")
    page, asked = visit.page, []
    page.select_option("#device", "pump-1")
    visit.until("values are good", f"{QUALITIES}.length >= 4 && {QUALITIES}.every(said => said === 'good') && document.getElementById('pulse').textContent.startsWith('live')")
    page.route("**/api/tags*", lambda route: (asked.append(route.request.url), route.fulfill(status=503, body="later")))
    visit.until("values that do not come any more are not called good", f"{QUALITIES}.length >= 4 && {QUALITIES}.every(said => said === 'unknown')")
    check("nor new", page.evaluate("[...document.querySelectorAll('#rows .when')].every(cell => !cell.textContent)"), visit.text("#rows"))
    check("they are told to be old", page.is_visible("#values-old") and "last ones" in visit.text("#values-old"), visit.text("#tags"))
    check("the page is not called live", "live" not in visit.text("#pulse"), visit.text("#pulse"))
    visit.until("it stands at the top, too", "document.getElementById('reasons').innerText.includes('values')")
    check("and the gateway is not called lost", not page.evaluate("document.body.classList.contains('lost')"))
    check("a small answer is asked for after a large one that failed", sum("points=" in url for url in asked) <= 1 < len(asked), asked)
    page.click("text=energy")
    visit.until("a tag that is opened is not called good either", f"/does not answer with values/.test({BOX}) && !/good/.test({BOX}) && !/now \\(/.test({BOX})")
    page.keyboard.press("Escape")
    page.select_option("#device", EVIL)
    check("the rows of one device do not stand under the name of another", page.evaluate("document.querySelectorAll('#rows tr').length") == 0, visit.text("#rows"))
    page.unroute("**/api/tags*")
    visit.until("values that come again are good", f"{QUALITIES}.length === 1 && {QUALITIES}[0] === 'good' && document.getElementById('values-old').hidden && document.getElementById('pulse').textContent.startsWith('live')")
    visit.until("with their history", "document.querySelector('#rows .line path')?.getAttribute('d')?.length > 5", within=30)
    page.fill("#filter", "\u20ac" * 100)
    visit.until("the longest text can be looked for", "document.getElementById('nothing').textContent === 'No tag of this name.'")
    visit.end("freezing", quiet=["503"])


def strangers(log):
    """Clients of the broker whose names are scripts, too; what becomes of them may show up among the events."""
    port = re.search(r"listening for MQTT clients address=127\.0\.0\.1:(\d+)", log)
    if not port or not shutil.which("mosquitto_pub"):
        print("  SKIPPED clients with evil names: no mosquitto_pub")
        return
    for more in ([], ["-u", "<script>alert(6)</script>", "-P", "x"], ["--will-topic", "ironbridge/x", "--will-payload", "x"]):
        subprocess.run(["mosquitto_pub", "-p", port[1], "-i", "<img src=x onerror=alert(5)>", "-t", "<svg onload=alert(7)>", "-m", "x", *more],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)


def main():
    work_dir = tempfile.mkdtemp(prefix="ironbridge-page-")
    try:
        port = free_port()
        base = f"http://127.0.0.1:{port}/"
        open(f"{work_dir}/plan.toml", "w").write(config(work_dir, port))
        for user, password in (("hmi", "secret <b>"), ("viewer", "look")):
            subprocess.run([binary, "passwd", f"{work_dir}/users", user], input=password.encode(), check=True, capture_output=True)
        out = f"{work_dir}/sim.toml"
        start(binary, "simulate", "--config", f"{work_dir}/plan.toml", "--write-config", out, "--dead", "meter-2", stdout=subprocess.DEVNULL)
        for _ in range(400):
            if os.path.exists(out):
                break
            time.sleep(0.05)
        log = open(f"{work_dir}/log", "wb")
        gateway = start(binary, "run", "--config", out, stdout=log, stderr=log)
        for _ in range(400):
            try:
                urllib.request.urlopen(base, timeout=2).read()
                break
            except OSError:
                time.sleep(0.05)
        else:
            check("the page is served", False, open(f"{work_dir}/log").read()[-2000:])
            return
        if pictures:
            os.makedirs(pictures, exist_ok=True)
        strangers(open(f"{work_dir}/log").read())
        with sync_playwright() as playwright:
            # Root has no sandbox, and small boxes no big /dev/shm.
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
            read(browser, base)
            work(browser, base)
            look(browser, base)
            freeze(browser, base)
            lose(browser, base, gateway, out)
            browser.close()
        journal = open(f"{work_dir}/log").read()
        for word in ("operated", "login", "logout"):
            check(f"the audit trail has {word}", f'audit="{word}"' in journal or f"audit={word}" in journal, journal[-1500:])
        check("and no password", "secret <b>" not in journal)
    finally:
        for process in running:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        shutil.rmtree(work_dir, ignore_errors=True)


main()
print(f"{len(failures)} failed" if failures else "the page does what it says")
sys.exit(bool(failures))
