/* The null server in C: the peer of client_cost.py, so that the server is never what limits.
 *
 * Usage: null_c TTFT_US ITL_US COALESCE LOG     (prints its port; ends on SIGTERM, when it writes its log)
 *
 * It answers POST /v1/completions with a stream of max_tokens events on the absolute schedule received + ttft + k * itl
 * (ITL_US 0: as fast as it can, streams taking turns token by token; COALESCE 1: all that is due in one write), and logs
 * the time right before every write in the format of loadgen/sent_log.py. One sequence per request; no other checks.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PEERS = 16384, INBOX = 1 << 16, TURN = 64 };

static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
static const char EVENT[] =
    "data: {\"id\": \"null\", \"object\": \"text_completion\", \"model\": \"null\", \"choices\": [{\"index\": 0, "
    "\"text\": \" null\", \"token_ids\": [7], \"logprobs\": null, \"finish_reason\": %s}]}\n\n";

typedef struct {
    int fd, wanted, have, tokens, sent, active, id_size;
    int64_t received, *writes;
    int room;
    char *unsent;
    size_t unsent_size;
    char id[64], inbox[INBOX];
} Peer;

typedef struct { int64_t at; int sent, fd; } Due;

static Peer *peers[PEERS];
static Due heap[PEERS];
static int heaped, coalesce, ep;
static int64_t ttft, itl;
static char one[512], last[512], tail[512], *burst;
static int one_size, last_size, tail_size;
static char *log_bytes;
static size_t log_size, log_room;
static volatile sig_atomic_t stopping;

static void stop(int sig) { (void)sig; stopping = 1; }
static int64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
static void die(const char *what) { perror(what); exit(1); }

static int before(Due a, Due b) { return a.at != b.at ? a.at < b.at : a.sent != b.sent ? a.sent < b.sent : a.fd < b.fd; }
static void push(Due d) {
    int i = heaped++;
    for (; i && before(d, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = d;
}
static void pop(void) {
    Due d = heap[--heaped];
    int i = 0, c;
    while ((c = 2 * i + 1) < heaped) {
        if (c + 1 < heaped && before(heap[c + 1], heap[c])) c++;
        if (!before(heap[c], d)) break;
        heap[i] = heap[c];
        i = c;
    }
    heap[i] = d;
}

static int frame(char *to, const char *data) { return sprintf(to, "%zx\r\n%s\r\n", strlen(data), data); }

static void render(void) {
    char event[400];
    sprintf(event, EVENT, "null");
    one_size = frame(one, event);
    sprintf(event, EVENT, "\"length\"");
    last_size = frame(last, event);
}
static void render_tail(int tokens) {
    char event[256];
    sprintf(event, "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 1, \"completion_tokens\": %d}}\n\n", tokens);
    tail_size = frame(tail, event);
    tail_size += frame(tail + tail_size, "data: [DONE]\n\n");
    tail_size += sprintf(tail + tail_size, "0\r\n\r\n");
}

static void note(const void *data, size_t size) {
    if (log_size + size > log_room) {
        log_room = (log_room + size) * 2;
        if (!(log_bytes = realloc(log_bytes, log_room))) die("log");
    }
    memcpy(log_bytes + log_size, data, size);
    log_size += size;
}
static void finish(Peer *p) {
    uint16_t id_size = p->id_size;
    uint32_t sequences = 1, count = p->room / 2;
    note(&id_size, 2), note(&sequences, 4), note(&p->received, 8), note(&count, 4);
    note(p->id, id_size), note(p->writes, 16 * (size_t)count);
    p->active = 0;
}

static void drop(Peer *p) {
    peers[p->fd] = NULL;
    close(p->fd);
    free(p->writes);
    free(p->unsent);
    free(p);
}
static void watch(Peer *p, int op, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = p->fd};
    if (epoll_ctl(ep, op, p->fd, &e)) die("epoll_ctl");
}
static int write_all(Peer *p, const char *data, size_t size) { /* -1: the peer has gone */
    ssize_t n = p->unsent ? 0 : send(p->fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) { drop(p); return -1; }
    if (n < 0) n = 0;
    if ((size_t)n < size) {
        if (!p->unsent) watch(p, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        if (!(p->unsent = realloc(p->unsent, p->unsent_size + size - n))) die("unsent");
        memcpy(p->unsent + p->unsent_size, data + n, size - n);
        p->unsent_size += size - n;
    }
    return 0;
}
static void flush(Peer *p) {
    ssize_t n = send(p->fd, p->unsent, p->unsent_size, MSG_NOSIGNAL);
    if (n < 0) return;
    memmove(p->unsent, p->unsent + n, p->unsent_size -= n);
    if (p->unsent_size) return;
    free(p->unsent);
    p->unsent = NULL;
    watch(p, EPOLL_CTL_MOD, EPOLLIN);
}

static void send_due(void) {
    for (int turn = 0; turn < TURN && heaped; turn++) {
        int64_t now = now_ns();
        Due d = heap[0];
        if (d.at > now) return;
        pop();
        Peer *p = peers[d.fd];
        if (!p || !p->active) continue;
        int count = 1, left = p->tokens - p->sent;
        if (coalesce) count = itl ? (int)((now - d.at) / itl) + 1 : left;
        if (count > left) count = left;
        size_t size = 0;
        if (!p->sent) memcpy(burst, HEAD, size = sizeof HEAD - 1);
        p->sent += count;
        for (int i = 0; i < count; i++) {
            int ends = p->sent == p->tokens && i == count - 1;
            memcpy(burst + size, ends ? last : one, ends ? last_size : one_size);
            size += ends ? last_size : one_size;
        }
        if (p->sent == p->tokens) {
            render_tail(p->tokens);
            memcpy(burst + size, tail, tail_size);
            size += tail_size;
        } else
            push((Due){itl ? d.at + count * itl : now, p->sent, d.fd});
        p->writes[p->room++] = now_ns();
        p->writes[p->room++] = count;
        int ends = p->sent == p->tokens;
        if (ends) finish(p); /* before the write: the next request may follow at once */
        write_all(p, burst, size);
    }
}

static void begin(Peer *p) {
    char *body = strstr(p->inbox, "\r\n\r\n"), *id = strcasestr(p->inbox, "\r\nx-request-id: ");
    char *tokens = body ? strstr(body, "\"max_tokens\":") : NULL;
    p->id_size = id && id < body ? (int)strcspn(id += 16, "\r") : 0;
    if (p->id_size > 63) p->id_size = 63;
    if (p->id_size) memcpy(p->id, id, p->id_size);
    if (!tokens) { /* GET: ready */
        static const char ok[] = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        write_all(p, ok, sizeof ok - 1);
        return;
    }
    p->tokens = atoi(tokens + 13);
    p->sent = p->room = 0;
    p->active = 1;
    if (!(p->writes = realloc(p->writes, 16 * (size_t)p->tokens))) die("writes");
    p->received = now_ns();
    push((Due){p->received + ttft, 0, p->fd});
}
static void receive(Peer *p) {
    ssize_t n = recv(p->fd, p->inbox + p->have, INBOX - 1 - p->have, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) drop(p);
        return;
    }
    p->have += n;
    p->inbox[p->have] = 0;
    if (!p->wanted) {
        char *body = strstr(p->inbox, "\r\n\r\n"), *length = strcasestr(p->inbox, "\r\ncontent-length: ");
        if (!body) return;
        p->wanted = (int)(body + 4 - p->inbox) + (length && length < body ? atoi(length + 18) : 0);
        if (p->wanted >= INBOX) { fprintf(stderr, "a request of %d bytes is too large\n", p->wanted); exit(1); }
    }
    if (p->have < p->wanted) return;
    p->have = p->wanted = 0;
    begin(p);
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: null_c TTFT_US ITL_US COALESCE LOG\n"); return 2; }
    ttft = atoll(argv[1]) * 1000, itl = atoll(argv[2]) * 1000, coalesce = atoi(argv[3]);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    render();
    if (!(burst = malloc(1 << 22))) die("malloc");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof where;
    if (bind(listener, (void *)&where, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (void *)&where, &size);
    printf("%d\n", ntohs(where.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, found[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    while (!stopping) {
        send_due();
        int64_t wait = heaped ? heap[0].at - now_ns() : 3600 * 1000000000LL;
        if (wait < 0) wait = 0;
        struct timespec limit = {wait / 1000000000, wait % 1000000000};
        int n = epoll_pwait2(ep, found, 256, &limit, NULL);
        for (int i = 0; i < n; i++) {
            if (found[i].data.fd == listener) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fd >= PEERS) { fprintf(stderr, "too many connections\n"); return 1; }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    if (!(peers[fd] = calloc(1, sizeof(Peer)))) die("calloc");
                    peers[fd]->fd = fd;
                    watch(peers[fd], EPOLL_CTL_ADD, EPOLLIN);
                }
                continue;
            }
            Peer *p = peers[found[i].data.fd];
            if (p && found[i].events & EPOLLOUT && p->unsent) flush(p);
            p = peers[found[i].data.fd];
            if (p && found[i].events & ~EPOLLOUT) receive(p);
        }
    }
    FILE *out = fopen(argv[4], "wb");
    if (!out) die(argv[4]);
    fputs("loadgen-null-1\n", out);
    fwrite(log_bytes, 1, log_size, out);
    return fclose(out);
}
