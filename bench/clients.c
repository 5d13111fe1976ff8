/* Many Socket.IO clients over WebSocket in one thread, cheaper than any server they load.
 *
 *     clients PORT LIFETIME JOIN [COOKIE]
 *
 * They connect to 127.0.0.1:PORT, send the packet JOIN and are live with its ack. COOKIE
 * is the value of their handshakes' header. Commands are read from stdin, a line each;
 * each is answered by a line of JSON, `collect` by two:
 *
 *     open COUNT slow|reading TIMEOUT   connect so many more; answered when all are live
 *     collect DELIVERIES TIMEOUT        count what the reading clients get of the event
 *                                       "tick" from now on, and the age of each by its
 *                                       "t" (seconds of CLOCK_MONOTONIC); answered at
 *                                       once, and again when there were so many
 *     stall                             the slow clients stop to read
 *     resume TIMEOUT                    they read again; answered when each of them got
 *                                       an event "end"
 *
 * Meanwhile pings are answered, and whoever is told `livepush.reset` subscribes again
 * from its position. It ends with stdin, at the first error ({"error": ...}), or after
 * LIFETIME seconds. All is bounded: clients, their buffers, deliveries, attempts, time.
 *
 * Nothing here may know which server is measured. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CLIENTS = 20000,
    MAX_DELIVERIES = 20000000,
    WINDOW = 64,              /* connections between their connect and their ack */
    BUFFER = 1 << 18,         /* bytes, of one read of one client */
    LARGE = 1 << 16,          /* of a longer frame only the head is looked at, */
    HEAD = 512,               /* so many bytes */
    /* Of slow clients: what the kernel holds of a connection at most, and the segments
     * of a real network. With those of loopback a server's kernel takes megabytes of
     * each before the server notices anything. */
    SLOW_BUFFER = 16 << 10,
    SLOW_SEGMENT = 1400,
    ATTEMPTS = 5,             /* to be live again, of each client */
};

enum stage { UPGRADING, CONNECTING, LIVE, GONE };
enum task { NOTHING, OPENING, COLLECTING, RESUMING };

struct client {
    int fd;
    enum stage stage;
    int slow, back, attempts;
    size_t skip;              /* bytes of a large frame that are still to come */
    unsigned char *rest;      /* a frame that is not whole yet */
    size_t rest_size;
    char epoch[64];           /* position, of slow clients */
    unsigned long long offset;
};

static struct client *clients[MAX_CLIENTS];
static int opened, live, wanted, slow_count, loop, port;
static int next_slow;
static const char *join, *cookie = "";

static enum task task;
static double began, deadline;

static float *ages;           /* milliseconds, of this collection */
static size_t delivered, expected, aged;
static double first, last;    /* its first event's time, its last delivery's */
static size_t resets, closed, back, recovered;

static unsigned char buffer[BUFFER + LARGE + 16];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void answer(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

static void fail(const char *why, const unsigned char *more, size_t size)
{
    char text[201];
    size_t i;
    for (i = 0; i < size && i < sizeof text - 1; i++)
        text[i] = isprint(more[i]) && more[i] != '"' && more[i] != '\\' ? more[i] : ' ';
    text[i] = 0;
    answer("{\"error\": \"%s %s\"}", why, text);
    exit(1);
}

static void fail_by_errno(const char *why)
{
    const char *reason = strerror(errno);
    fail(why, (const unsigned char *)reason, strlen(reason));
}

/* -- out ------------------------------------------------------------------------- */

static int put(struct client *c, const void *data, size_t size)
{
    return send(c->fd, data, size, MSG_NOSIGNAL) == (ssize_t)size;
}

/* A text frame, masked by zeros (RFC 6455, section 5.3). */
static void say(struct client *c, const char *text)
{
    unsigned char frame[1024 + 8];
    size_t size = strlen(text), at = 0;
    if (size > 1024)
        fail("a packet is too long:", (const unsigned char *)text, size);
    frame[at++] = 0x81;
    if (size < 126) {
        frame[at++] = 0x80 | size;
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = size >> 8;
        frame[at++] = size & 255;
    }
    memset(frame + at, 0, 4);
    memcpy(frame + at + 4, text, size);
    /* Where the connection is broken, the next read says so. */
    put(c, frame, at + 4 + size);
}

static void subscribe(struct client *c)
{
    char text[1024];
    if (*c->epoch) {
        snprintf(text, sizeof text, "%.*s,\"since\":{\"epoch\":\"%s\",\"offset\":%llu}}]",
                 (int)strlen(join) - 2, join, c->epoch, c->offset);
        say(c, text);
    } else {
        say(c, join);
    }
}

static void watch(struct client *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event);
}

static void dial(struct client *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval patience = {.tv_sec = 10};
    int one = 1, size = SLOW_BUFFER, segment = SLOW_SEGMENT;
    char request[4096];
    int length = snprintf(
        request, sizeof request,
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: bGl2ZXB1c2gtYmVuY2gtMQ==\r\n"
        "Origin: http://127.0.0.1:%d\r\n%s%s%s\r\n",
        port, port, *cookie ? "Cookie: " : "", cookie, *cookie ? "\r\n" : "");

    if (length >= (int)sizeof request)
        fail("the cookie is too long", 0, 0);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0)
        fail_by_errno("no socket is left:");
    if (c->slow) {
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        fail_by_errno("cannot connect:");
    c->stage = UPGRADING;
    put(c, request, length);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c);
}

/* -- in -------------------------------------------------------------------------- */

static void hang_up(struct client *c)
{
    if (c->stage == GONE)
        return;
    if (task == OPENING)
        fail("the server closed a connection that was opening", 0, 0);
    close(c->fd);
    free(c->rest);
    c->rest = 0;
    c->rest_size = c->skip = 0;
    c->stage = GONE;
    closed++;
    if (task == RESUMING && c->slow && c->attempts++ < ATTEMPTS)
        dial(c);
}

/* Read a decimal number that begins at `at`, up to `end`. */
static double number(const unsigned char *at, const unsigned char *end)
{
    double value = 0, scale = 1;
    for (; at < end && isdigit(*at); at++)
        value = value * 10 + (*at - '0');
    if (at < end && *at == '.')
        for (at++; at < end && isdigit(*at); at++)
            value += (*at - '0') * (scale /= 10);
    return value;
}

static const unsigned char *after(const unsigned char *text, size_t size, const char *what)
{
    const unsigned char *found = memmem(text, size, what, strlen(what));
    return found ? found + strlen(what) : 0;
}

static void remember_position(struct client *c, const unsigned char *text, size_t size)
{
    size_t tail = size < 200 ? size : 200;
    const unsigned char *end = text + size;
    const unsigned char *epoch = after(end - tail, tail, "\"epoch\":\"");
    const unsigned char *offset = after(end - tail, tail, "\"offset\":");
    size_t length = 0;
    if (!epoch || !offset)
        return;
    while (epoch + length < end && epoch[length] != '"' && length < sizeof c->epoch - 1)
        length++;
    memcpy(c->epoch, epoch, length);
    c->epoch[length] = 0;
    c->offset = (unsigned long long)number(offset, end);
}

static void on_event(struct client *c, const unsigned char *text, size_t size, double at)
{
    const unsigned char *t;
    if (size > 9 && !memcmp(text, "42[\"tick\"", 9)) {
        if (c->slow) {
            remember_position(c, text, size);
            return;
        }
        if (task != COLLECTING)
            return;
        delivered++;
        last = at;
        t = after(text, size, "\"t\":");
        if (t && aged < expected) {
            double made = number(t, text + size);
            if (!aged || made < first)
                first = made;
            ages[aged++] = (at - made) * 1e3;
        }
    } else if (size > 8 && !memcmp(text, "42[\"end\"", 8)) {
        if (task == RESUMING && c->slow && !c->back) {
            c->back = 1;
            back++;
        }
    } else if (after(text, size < 40 ? size : 40, "\"livepush.reset\"")) {
        resets++;
        subscribe(c);
    }
}

static void on_ack(struct client *c, const unsigned char *text, size_t size)
{
    if (!after(text, size, "\"ok\":true")) {
        if (task == OPENING || c->attempts++ >= ATTEMPTS)
            fail("a subscription was refused:", text, size);
        subscribe(c);
        return;
    }
    if (after(text, size, "\"recovered\":true"))
        recovered++;
    if (c->stage != LIVE) {
        c->stage = LIVE;
        live += task == OPENING;
    }
}

static void on_text(struct client *c, const unsigned char *text, size_t size, double at)
{
    if (!size)
        return;
    if (text[0] == '4' && size > 1) {
        if (text[1] == '2')
            on_event(c, text, size, at);
        else if (text[1] == '3')
            on_ack(c, text, size);
        else if (text[1] == '0')
            subscribe(c);
        else if (text[1] == '4')
            fail("a connection was refused:", text, size);
    } else if (text[0] == '0') {
        say(c, "40");
    } else if (text[0] == '2') {
        say(c, "3");
    }
}

/* Take the whole frames from data; return how many bytes they were. */
static size_t take(struct client *c, unsigned char *data, size_t size, double at)
{
    size_t done = 0;
    if (c->stage == UPGRADING) {
        const unsigned char *end = after(data, size, "\r\n\r\n");
        if (!end)
            return 0;
        if (memcmp(data, "HTTP/1.1 101", 12))
            fail("the server refused a handshake:", data, end - data);
        c->stage = CONNECTING;
        done = end - data;
    }
    while (c->stage != GONE) {
        unsigned char *frame = data + done;
        size_t left = size - done, head = 2, length, i;
        int code;
        if (c->skip) {
            size_t part = c->skip < left ? c->skip : left;
            c->skip -= part;
            done += part;
            if (c->skip)
                break;
            continue;
        }
        if (left < 2)
            break;
        code = frame[0] & 15;
        length = frame[1] & 127;
        /* No frame can begin so: where the server sent a frame in part, all that
         * comes after it is lost. */
        if (frame[0] & 0x70 || frame[1] & 0x80 || !(code < 3 || (code > 7 && code < 11))) {
            hang_up(c);
            return size;
        }
        if (length > 125) {
            head = length == 126 ? 4 : 10;
            if (left < head)
                break;
            for (length = 0, i = 2; i < head; i++)
                length = length << 8 | frame[i];
        }
        if (length > LARGE) {
            if (left < head + HEAD)
                break;
            if (code == 1)
                on_text(c, frame + head, HEAD, at);
            c->skip = head + length;
            continue;
        }
        if (left < head + length)
            break;
        if (code == 1) {
            on_text(c, frame + head, length, at);
        } else if (code == 9) { /* ping; a pong may be empty where the ping was */
            put(c, "\x8a\x80\0\0\0\0", 6);
        } else if (code == 8) {
            hang_up(c);
            return size;
        }
        done += head + length;
    }
    return done;
}

static void on_readable(struct client *c)
{
    size_t size = c->rest_size, done;
    ssize_t got;
    if (c->stage == GONE)
        return;
    if (size)
        memcpy(buffer, c->rest, size);
    got = recv(c->fd, buffer + size, BUFFER, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        hang_up(c);
        return;
    }
    size += got;
    done = take(c, buffer, size, now());
    if (c->stage == GONE)
        return;
    free(c->rest);
    c->rest = 0;
    c->rest_size = size - done;
    if (c->rest_size > LARGE + 16)
        fail("a handshake's answer is too long:", buffer, 40);
    if (c->rest_size) {
        c->rest = malloc(c->rest_size);
        if (!c->rest)
            fail("out of memory", 0, 0);
        memcpy(c->rest, buffer + done, c->rest_size);
    }
}

/* -- commands -------------------------------------------------------------------- */

static void begin(enum task what, double timeout)
{
    if (task != NOTHING)
        fail("one command at a time", 0, 0);
    task = what;
    began = now();
    deadline = began + timeout;
}

static void obey(const char *line)
{
    char group[16] = "";
    int count;
    size_t deliveries;
    double timeout;
    if (sscanf(line, "open %d %15s %lf", &count, group, &timeout) == 3) {
        if (count < 0 || wanted + count > MAX_CLIENTS)
            fail("too many clients", 0, 0);
        begin(OPENING, timeout);
        wanted += count;
        next_slow = !strcmp(group, "slow");
        slow_count += next_slow ? count : 0;
    } else if (sscanf(line, "collect %zu %lf", &deliveries, &timeout) == 2) {
        if (deliveries > MAX_DELIVERIES)
            fail("too many deliveries", 0, 0);
        free(ages);
        ages = malloc((deliveries + 1) * sizeof *ages);
        if (!ages)
            fail("out of memory", 0, 0);
        begin(COLLECTING, timeout);
        expected = deliveries;
        delivered = aged = 0;
        first = last = began;
        answer("{\"collecting\": %zu}", expected);
    } else if (!strcmp(line, "stall")) {
        for (int i = 0; i < opened; i++)
            if (clients[i]->slow && clients[i]->stage != GONE)
                epoll_ctl(loop, EPOLL_CTL_DEL, clients[i]->fd, 0);
        answer("{\"stalled\": %d}", slow_count);
    } else if (sscanf(line, "resume %lf", &timeout) == 1) {
        begin(RESUMING, timeout);
        back = recovered = resets = closed = 0;
        for (int i = 0; i < opened; i++)
            if (clients[i]->slow && clients[i]->stage != GONE)
                watch(clients[i]);
    } else {
        fail("no such command:", (const unsigned char *)line, strlen(line));
    }
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double share(double part)
{
    return aged ? ages[(size_t)(part * (aged - 1))] : 0;
}

/* Answer the command that is under way, when it is done or its time is over. */
static void conclude(void)
{
    double at = now();
    int late = at > deadline;
    if (task == OPENING) {
        if (late)
            fail("not all clients were live in time", 0, 0);
        if (live < wanted)
            return;
        answer("{\"clients\": %d, \"seconds\": %.6f}", live, at - began);
    } else if (task == COLLECTING) {
        if (delivered < expected && !late)
            return;
        qsort(ages, aged, sizeof *ages, ascending);
        answer("{\"expected\": %zu, \"delivered\": %zu, \"seconds\": %.6f, "
               "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"closed\": %zu}",
               expected, delivered, last - first, share(0.5), share(0.99), closed);
    } else if (task == RESUMING) {
        if (back < (size_t)slow_count && !late)
            return;
        answer("{\"slow\": %d, \"back\": %zu, \"seconds\": %.6f, \"resets\": %zu, "
               "\"recovered\": %zu, \"closed\": %zu}",
               slow_count, back, at - began, resets, recovered, closed);
    } else {
        return;
    }
    task = NOTHING;
}

static void open_more(void)
{
    while (task == OPENING && opened < wanted && opened - live < WINDOW) {
        struct client *c = calloc(1, sizeof *c);
        if (!c)
            fail("out of memory", 0, 0);
        c->slow = next_slow;
        clients[opened++] = c;
        dial(c);
    }
}

static void on_stdin(void)
{
    static char lines[4096];
    static size_t size;
    ssize_t got = read(0, lines + size, sizeof lines - 1 - size);
    char *end;
    if (got <= 0)
        exit(0);
    size += got;
    lines[size] = 0;
    while ((end = strchr(lines, '\n'))) {
        *end++ = 0;
        obey(lines);
        size -= end - lines;
        memmove(lines, end, size + 1);
    }
    if (size == sizeof lines - 1)
        fail("a command is too long", 0, 0);
}

int main(int count, char **arguments)
{
    static struct epoll_event events[512];
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = 0};
    if (count < 4)
        fail("usage: clients PORT LIFETIME JOIN [COOKIE]", 0, 0);
    port = atoi(arguments[1]);
    alarm(atoi(arguments[2]));
    join = arguments[3];
    if (count > 4)
        cookie = arguments[4];
    loop = epoll_create1(0);
    epoll_ctl(loop, EPOLL_CTL_ADD, 0, &commands);
    for (;;) {
        int ready = epoll_wait(loop, events, 512, 100);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                on_readable(events[i].data.ptr);
            else
                on_stdin();
        }
        open_more();
        conclude();
    }
}
