/*
 * A bad network between daemons and their orchestrator:
 *
 *   fault_proxy FRONT BACK SEED DOUBLE LATE LOST MAX_LATE_MS
 *
 * Daemons connect to FRONT; BACK is the orchestrator's work socket. Every message is doubled, held
 * back for up to MAX_LATE_MS (and so overtaken by others) or dropped with the given probabilities.
 * Prints what it did when it gets SIGTERM.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#define PEERS_MAX  64
#define FRAMES_MAX 8
#define HELD_MAX   4096

struct message {
    zmq_msg_t frames[FRAMES_MAX]; /* without the routing id */
    int count;
};

struct peer {
    char id[256];
    size_t id_size;
    void *back; /* speaks to the orchestrator in this peer's name */
};

struct held {
    struct message message;
    int peer;
    bool to_back;
    int64_t due_ms;
};

struct proxy {
    void *context, *front;
    const char *back;
    struct peer peers[PEERS_MAX];
    int peer_count;
    struct held held[HELD_MAX];
    int held_count;
    double twice, late, lost;
    int64_t max_late_ms;
    uint64_t random;
    long passed, doubled, delayed, dropped;
};

static volatile sig_atomic_t done;

static void on_signal(int number)
{
    (void)number;
    done = 1;
}

static void die(const char *what)
{
    fprintf(stderr, "fault_proxy: %s: %s\n", what, zmq_strerror(errno));
    exit(1);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* xorshift64*, in [0, 1) */
static double chance(struct proxy *p)
{
    p->random ^= p->random >> 12;
    p->random ^= p->random << 25;
    p->random ^= p->random >> 27;
    return (double)((p->random * UINT64_C(2685821657736338717)) >> 11) / 9007199254740992.0;
}

/* False: nothing there. The routing id of a message from the front goes to *id. */
static bool receive(void *socket, bool has_id, zmq_msg_t *id, struct message *m)
{
    bool more = true;
    m->count = 0;
    if (has_id) {
        zmq_msg_init(id);
        if (zmq_msg_recv(id, socket, ZMQ_DONTWAIT) < 0)
            return false;
        more = zmq_msg_more(id);
    }
    while (more && m->count < FRAMES_MAX) {
        zmq_msg_t *frame = &m->frames[m->count];
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0)
            return false;
        m->count++;
        more = zmq_msg_more(frame);
    }
    return true;
}

static void release(struct message *m)
{
    for (int i = 0; i < m->count; i++)
        zmq_msg_close(&m->frames[i]);
}

static void copy(struct message *to, struct message *from)
{
    to->count = from->count;
    for (int i = 0; i < from->count; i++) {
        zmq_msg_init(&to->frames[i]);
        zmq_msg_copy(&to->frames[i], &from->frames[i]);
    }
}

/* A peer that is away loses it, as on a real network. Takes the message. */
static void send_on(struct proxy *p, int peer, bool to_back, struct message *m)
{
    void *socket = to_back ? p->peers[peer].back : p->front;
    if (!to_back && zmq_send(p->front, p->peers[peer].id, p->peers[peer].id_size,
                             ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        release(m);
        return;
    }
    for (int i = 0; i < m->count; i++) {
        int more = i + 1 < m->count ? ZMQ_SNDMORE : 0;
        if (zmq_msg_send(&m->frames[i], socket, more | ZMQ_DONTWAIT) < 0)
            zmq_msg_close(&m->frames[i]);
    }
    p->passed++;
}

static void hold(struct proxy *p, int peer, bool to_back, struct message *m)
{
    struct held *h = &p->held[p->held_count++];
    h->message = *m;
    h->peer = peer;
    h->to_back = to_back;
    h->due_ms = now_ms() + (int64_t)(chance(p) * (double)p->max_late_ms);
    p->delayed++;
}

static void treat(struct proxy *p, int peer, bool to_back, struct message *m)
{
    if (chance(p) < p->lost) {
        p->dropped++;
        release(m);
        return;
    }
    if (chance(p) < p->twice && p->held_count < HELD_MAX) {
        struct message again;
        copy(&again, m);
        hold(p, peer, to_back, &again);
        p->doubled++;
    }
    if (chance(p) < p->late && p->held_count < HELD_MAX)
        hold(p, peer, to_back, m);
    else
        send_on(p, peer, to_back, m);
}

static void send_due(struct proxy *p)
{
    int64_t now = now_ms();
    for (int i = 0; i < p->held_count;) {
        if (p->held[i].due_ms > now) {
            i++;
            continue;
        }
        struct held h = p->held[i];
        p->held[i] = p->held[--p->held_count];
        send_on(p, h.peer, h.to_back, &h.message);
    }
}

static int peer_of(struct proxy *p, zmq_msg_t *id)
{
    size_t size = zmq_msg_size(id);
    for (int i = 0; i < p->peer_count; i++) {
        if (p->peers[i].id_size == size && memcmp(p->peers[i].id, zmq_msg_data(id), size) == 0)
            return i;
    }
    if (p->peer_count == PEERS_MAX || size > sizeof p->peers[0].id)
        die("too many peers");
    struct peer *peer = &p->peers[p->peer_count];
    int zero = 0;
    peer->id_size = size;
    memcpy(peer->id, zmq_msg_data(id), size);
    peer->back = zmq_socket(p->context, ZMQ_DEALER);
    zmq_setsockopt(peer->back, ZMQ_ROUTING_ID, peer->id, size);
    zmq_setsockopt(peer->back, ZMQ_LINGER, &zero, sizeof zero);
    if (zmq_connect(peer->back, p->back) != 0)
        die(p->back);
    return p->peer_count++;
}

static void from_front(struct proxy *p)
{
    zmq_msg_t id;
    struct message m;
    while (receive(p->front, true, &id, &m)) {
        treat(p, peer_of(p, &id), true, &m);
        zmq_msg_close(&id);
    }
}

static void serve(struct proxy *p)
{
    while (!done) {
        zmq_pollitem_t items[PEERS_MAX + 1] = {{p->front, 0, ZMQ_POLLIN, 0}};
        for (int i = 0; i < p->peer_count; i++)
            items[i + 1] = (zmq_pollitem_t){p->peers[i].back, 0, ZMQ_POLLIN, 0};
        int count = p->peer_count;
        zmq_poll(items, count + 1, 5);
        if (items[0].revents)
            from_front(p);
        for (int i = 0; i < count; i++) {
            struct message m;
            while (items[i + 1].revents && receive(p->peers[i].back, false, NULL, &m))
                treat(p, i, false, &m);
        }
        send_due(p);
    }
}

int main(int argc, char **argv)
{
    static struct proxy p;
    if (argc != 8) {
        fprintf(stderr, "fault_proxy FRONT BACK SEED DOUBLE LATE LOST MAX_LATE_MS\n");
        return 2;
    }
    p.back = argv[2];
    p.random = strtoull(argv[3], NULL, 10) * 2 + 1;
    p.twice = strtod(argv[4], NULL);
    p.late = strtod(argv[5], NULL);
    p.lost = strtod(argv[6], NULL);
    p.max_late_ms = strtoll(argv[7], NULL, 10);
    signal(SIGTERM, on_signal);
    p.context = zmq_ctx_new();
    p.front = zmq_socket(p.context, ZMQ_ROUTER);
    int yes = 1;
    int zero = 0;
    zmq_setsockopt(p.front, ZMQ_ROUTER_MANDATORY, &yes, sizeof yes);
    zmq_setsockopt(p.front, ZMQ_LINGER, &zero, sizeof zero);
    if (zmq_bind(p.front, argv[1]) != 0)
        die(argv[1]);
    serve(&p);
    printf("%ld passed, %ld doubled, %ld late, %ld lost\n", p.passed, p.doubled, p.delayed,
           p.dropped);
    return 0;
}
